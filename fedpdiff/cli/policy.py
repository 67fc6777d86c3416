"""``fedpdiff policy``: a policy file to begin with, for the owner of private images."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "policy",
        help="print a policy file with comments: what a site allows",
        description="Print a policy file with comments, to be edited by the owner of the images: "
        "fedpdiff policy --images 5000 > policy.toml",
    )
    parser.add_argument(
        "--images", type=int, required=True, metavar="N", help="number of this site's images; proposes delta"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the file.

    Raises
    ------
    ConfigError
        When the number of images is below 1.
    """
    from fedpdiff.privacy.policy import policy_template

    print(policy_template(args.images), end="")
    return 0
