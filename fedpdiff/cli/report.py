"""``fedpdiff report``: figures, table and page of finished runs, made from their folders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="make the figures, the table and report.html of a run again",
        description="Make the figures, the table and report.html of finished runs from their folders. With "
        "several runs that differ only in their seed, also print mean and spread over them. With the folder "
        "of a sweep, make its tables, figures and page.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="a run folder, or a sweep's")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks and return the exit status."""
    from fedpdiff.report.page import write_report
    from fedpdiff.report.seeds import seeds_table
    from fedpdiff.report.sweep_page import write_sweep_report

    if [folder for folder in arguments.runs if (folder / "sweep.json").is_file()] == arguments.runs[:1]:
        page = write_sweep_report(arguments.runs[0])
        print(f"{(arguments.runs[0] / 'sweep.md').read_text(encoding='utf-8')}\nReport: {page.resolve()}")
        return 0
    for folder in arguments.runs:
        page = write_report(folder)
        print(f"{(folder / 'results.md').read_text(encoding='utf-8')}\nReport: {page.resolve()}\n")
    if len(arguments.runs) > 1:
        print(seeds_table(arguments.runs), end="")
    return 0
