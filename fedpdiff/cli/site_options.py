"""What the commands of a site's private side share: which site, and its progress."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedpdiff.federation.private_side import PrivateSide


def add_site_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which site; all but the state folder are remembered in it."""
    parser.add_argument(
        "--state",
        type=Path,
        required=True,
        metavar="DIR",
        help="private folder for ledger, personal model and samples; it must outlive runs and be backed up",
    )
    once = parser.add_argument_group("this site (needed the first time, then remembered in the state folder)")
    once.add_argument("--data", type=Path, metavar="DIR", help="folder or file with this site's own images")
    once.add_argument("--request", type=Path, metavar="FILE", help="the coordinator's request")
    once.add_argument(
        "--policy", type=Path, metavar="FILE", help="what this site allows; see fedpdiff policy"
    )
    once.add_argument(
        "--witness",
        type=Path,
        metavar="FILE",
        help="file that notices a ledger restored from an old backup, best on another disk or machine "
        "(default: witness.json in the state folder)",
    )
    once.add_argument("--site", metavar="NAME", help="this site's name, as in its node's site-name")


@contextlib.contextmanager
def private_side(args: argparse.Namespace) -> Iterator[PrivateSide]:
    """Open the private side that the options name, and show its progress on standard error.

    Raises
    ------
    FedpdiffError
        When options, policy or request do not fit.
    """
    from rich.console import Console

    from fedpdiff.federation.private_side import PrivateSide
    from fedpdiff.simulation.progress import display

    side = PrivateSide.open(args.state, args.data, args.policy, args.site, args.request, witness=args.witness)
    with display(Console(stderr=True), "reading images") as shown:
        side.tasks.events.listener = shown.show
        yield side
