"""``fedpdiff personalize``: a site's personal denoiser, trained offline."""

from __future__ import annotations

import argparse

from fedpdiff.cli.site_options import add_site_options, private_side


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "personalize",
        help="sealed site, private side: train the personal denoiser",
        description="Train the personal denoiser on the site's own images. Works offline, after fedpdiff "
        "release. Cut off, it goes on from its last checkpoint when it is called again.",
    )
    add_site_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train and say where the model is.

    Raises
    ------
    FedpdiffError
        When options do not fit, there is no release yet, or training diverges.
    """
    with private_side(args) as side:
        report = side.personalize()
    print(f"{report.gradient_steps} steps in {report.seconds:.0f} s")
    print(f"Personal half: {side.tasks.folder.personal}")
    return 0
