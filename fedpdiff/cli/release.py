"""``fedpdiff release``: a site's one noisy release, made offline, with its certificate."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedpdiff.cli.site_options import add_site_options, private_side


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "release",
        help="sealed site, private side: make the one noisy release, with its certificate",
        description="Make the noisy release that a request asks for, if this site's policy allows it, and "
        "put it into the outbox with its certificate. Works offline. Each image is noised once and the "
        "noising kept in the site's ledger: called again, it writes the same bytes.",
    )
    add_site_options(parser)
    parser.add_argument(
        "--outbox",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder that the network side serves; outside the private folders",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the release and say what it guarantees.

    Raises
    ------
    FedpdiffError
        When options, policy, request or images do not fit; nothing is released then.
    """
    import json

    from fedpdiff.privacy.cautions import budget_cautions

    with private_side(args) as side:
        manifest = side.release(args.outbox)
    certificate = json.loads(manifest.certificate)
    print(certificate["statement"])
    together = certificate["composition"]["epsilon_total"]
    for caution in budget_cautions(together, certificate["delta"], certificate["n_images"]):
        print(caution)
    print(f"{manifest.images} images as {manifest.site}. Outbox: {args.outbox.resolve()}")
    return 0
