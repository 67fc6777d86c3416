"""``fedpdiff app``: the installed code as a folder that ``flwr run`` starts."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "app",
        help="coordinator: write the Flower app for flwr run",
        description="Write the installed code as a Flower app into DIR, for flwr run DIR. A checkout is such "
        "a folder already. Write it anew after every update of fedpdiff.",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="new or empty folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the folder and say where it is."""
    from fedpdiff.simulation.app import write_app

    print(f"Flower app: {write_app(args.dir).resolve()}")
    return 0
