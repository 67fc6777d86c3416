"""``fedpdiff ledger``: what a client's images have spent, for their owner."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedpdiff.privacy.ledger_report import LedgerReport


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "ledger",
        help="what a client's images have spent, over all releases",
        description="What was released of a client's images and what it spent of their privacy, ever.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a client's state-dir or release folder")
    parser.add_argument("--delta", type=float, default=1e-5, help="at which epsilon is stated; default 1e-5")
    parser.add_argument(
        "--accept-failed-noise",
        action="store_true",
        help="allow another noising after a failed noise health check; the failed one stays charged",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the ledger's totals.

    Raises
    ------
    ConfigError, PrivacyError
        When there is no ledger, it is damaged, or delta is out of range.
    """
    from fedpdiff.privacy.ledger_report import accept_failed_noise, report_ledger

    if args.accept_failed_noise:
        print(f"accepted: {accept_failed_noise(args.folder)} failed health checks, which stay charged")
    print(_table(report_ledger(args.folder, args.delta), args.delta))
    return 0


def _table(report: LedgerReport, delta: float) -> str:
    rows = [
        ("images ever noised", f"{report.images}"),
        ("releases", f"{report.releases}"),
        ("most noisings of one image", f"{report.spent.noisings}"),
        ("spent on that image", f"mu {report.spent.mu:.4f}, epsilon {report.epsilon:g} at delta {delta:g}"),
    ]
    if report.persons:
        rows += [
            ("most images of one person", f"{report.persons.images}"),
            ("most spent on one person", f"mu {report.persons.mu:.4f}, epsilon {report.persons_epsilon:g}"),
        ]
    rows.append(("failed noise checks", f"{report.failed} not accepted"))
    lines = [f"  {name:<28}{value}" for name, value in rows]
    return "\n".join(["NOT PRIVATE: seeded noise, for simulation only", *lines] if report.seeded else lines)
