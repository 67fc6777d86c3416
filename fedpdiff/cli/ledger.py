"""``fedpdiff ledger``: what a client's images have spent, its backup, and what its owner decides."""

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
        help="what a client's images have spent, over all releases; backup and restore",
        description="What was released of a client's images and what it spent of their privacy, ever.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="a site's folder (with site.toml), or a state folder"
    )
    parser.add_argument("--delta", type=float, default=1e-5, help="at which epsilon is stated; default 1e-5")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--accept-failed-noise",
        action="store_true",
        help="allow another noising after a failed noise health check; the failed one stays charged",
    )
    action.add_argument(
        "--backup", type=Path, metavar="FILE", help="write a backup, as private as the images"
    )
    action.add_argument(
        "--restore",
        type=Path,
        metavar="FILE",
        help="put a backup where the ledger was lost",
    )
    action.add_argument(
        "--nothing-lost",
        action="store_true",
        help="after a restore, a move, or an update from a version without witness: state that nothing "
        "was released after this ledger",
    )
    action.add_argument(
        "--lost",
        type=Path,
        nargs="+",
        metavar="CERTIFICATE",
        help="after a restore: charge what was sent since, all of it, by its certificates (files or folders)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the owner decides, and print the ledger's totals.

    Raises
    ------
    ConfigError, PrivacyError
        When there is no ledger, it is damaged, the decision is not possible, or delta is out of range.
    """
    from fedpdiff.deployment.ledger_state import state_and_witness
    from fedpdiff.privacy.ledger_report import report_ledger

    state, witness = state_and_witness(args.folder)
    said = _act(args, state, witness)
    if said:
        print(said)
    print(_table(report_ledger(state, args.delta, witness), args.delta))
    return 0


def _act(args: argparse.Namespace, state: Path, witness: Path | None) -> str:
    from fedpdiff.privacy import ledger_backup, ledger_report, ledger_settling

    if args.accept_failed_noise:
        accepted = ledger_report.accept_failed_noise(state)
        return f"accepted: {accepted} failed health checks, which stay charged"
    if args.backup:
        noisings = ledger_backup.back_up(ledger_report.find_store(state, witness), args.backup)
        return f"Backup: {args.backup.absolute()}, up to noising {noisings}. Keep it as private as the images"
    if args.restore:
        noisings = ledger_backup.restore(ledger_report.place_of_store(state, witness), args.restore)
        return (
            f"restored up to noising {noisings}. Whether that is the newest its witness says, the next time "
            "that the site is asked"
        )
    if args.nothing_lost:
        return ledger_settling.settle_nothing_lost(ledger_report.find_store(state, witness))
    if args.lost:
        return ledger_settling.settle_lost(ledger_report.find_store(state, witness), args.lost)
    return ""


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
    if report.witness:
        rows.append(("witness", f"{report.witness}"))
    if report.lost:
        rows.append(("lost releases", f"{report.lost}, charged to every image that may be in them"))
    lines = [f"  {name:<28}{value}" for name, value in rows]
    if report.doubt:
        lines.append(
            f"IN DOUBT: {report.doubt}. What is above may not be all. Nothing new is noised until a newer "
            "backup is restored or the doubt is settled (--nothing-lost, --lost CERTIFICATE...)"
        )
    return "\n".join(["NOT PRIVATE: seeded noise, for simulation only", *lines] if report.seeded else lines)
