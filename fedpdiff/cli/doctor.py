"""``fedpdiff doctor``: check a coordinator's or a site's folder before the first run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="check a coordinator's or a site's folder before the first run",
        description="Check everything before the first run and say what to mend; exit status 1 when "
        "something must be.",
    )
    parser.add_argument(
        "dir",
        type=Path,
        metavar="DIR",
        help="folder made by coordinator init or site init; private side of a sealed site: its --state",
    )
    parser.add_argument(
        "--sealed",
        type=Path,
        metavar="DIR",
        help="sealed site, private side: the folder with outbox and inbox",
    )
    parser.add_argument(
        "--fingerprint",
        default="",
        metavar="HEX",
        help="code fingerprint that the other side's doctor printed; must be equal here",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 when there is a problem."""
    from fedpdiff.deployment.doctor import examine

    findings = examine(args.dir, args.fingerprint, args.sealed)
    for finding in findings:
        print(finding.text())
    problems = sum(finding.level == "problem" for finding in findings)
    print(f"{problems} to mend" if problems else "Nothing to mend")
    return 1 if problems else 0
