"""``fedpdiff evaluate``: a site's own scores, computed offline with the global half that arrived."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedpdiff.cli.site_options import add_site_options, private_side


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="sealed site, private side: sample, and score on the site's own test images",
        description="Sample with the global half in the inbox and the personal one, and score the samples on "
        "the site's own test images. Works offline; scores and samples stay in the state folder.",
    )
    add_site_options(parser)
    parser.add_argument(
        "--inbox", type=Path, required=True, metavar="DIR", help="where the network side put the global half"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the scores.

    Raises
    ------
    FedpdiffError
        When options do not fit, or one of the halves is missing or damaged.
    """
    with private_side(args) as side:
        scores = side.evaluate(args.inbox)
    for name, score in scores.items():
        print(f"  {name:<32}{score:.4g}")
    if not scores:
        print("no scores: the server has no public images to train a classifier on")
    print(f"Samples: {side.tasks.folder.samples}")
    return 0
