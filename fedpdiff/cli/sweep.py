"""``fedpdiff sweep``: many simulations from one file, resumable, with a report over all of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "sweep",
        help="run a grid of simulations from a file, and compare them",
        description="Run every combination of a sweep file's grid and seeds, each as `fedpdiff simulate` "
        "would. Finished runs are not repeated, so the same command goes on after an interruption. "
        "`fedpdiff report DIR` makes the tables again.",
    )
    parser.add_argument(
        "file", metavar="FILE", help="a sweep file, or the name of an experiment, such as rivals"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the sweep's folder")
    parser.add_argument(
        "--size",
        choices=("ci", "cpu", "gpu"),
        help="what fits a test of minutes, two cores in about an hour, or a GPU",
    )
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="instead of the file's seeds")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only the runs with this value of what the sweep varies, such as method=fedavg",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default 1)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="change a setting of all runs, such as data=PATH",
    )
    parser.set_defaults(run=run)


def _choice(text: str) -> tuple[str, Any]:
    """Read what ``--only`` asks for: a setting with a value of its type, or a variant by its name."""
    from fedpdiff.config.run import parse_assignment
    from fedpdiff.simulation.sweep_file import VARIANT

    key, _, name = text.partition("=")
    return (VARIANT, name.strip()) if key.strip() == VARIANT else parse_assignment(text)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks and return the exit status."""
    import sys

    from fedpdiff.config.run import parse_assignment
    from fedpdiff.errors import ConfigError
    from fedpdiff.simulation.presets import read_presets
    from fedpdiff.simulation.sweep import run_sweep
    from fedpdiff.simulation.sweep_file import find_sweep, plan, read_sweep, select

    if arguments.jobs < 1:
        raise ConfigError(f"--jobs {arguments.jobs}: must be at least 1")
    sweep = read_sweep(find_sweep(arguments.file)).sized(arguments.size)
    changes = dict(parse_assignment(text) for text in arguments.assignments)
    only = [_choice(text) for text in arguments.only]
    runs = plan(sweep, changes, arguments.seeds)
    chosen = select(runs, only)
    out = arguments.out.expanduser().absolute()

    def say(line: str) -> None:
        print(line, flush=True)

    failures = run_sweep(read_presets(), sweep, runs, out, arguments.jobs, say, chosen)
    for line in failures:
        print(f"fedpdiff: failed: {line}", file=sys.stderr)
    if len(failures) < len(chosen):
        from fedpdiff.report.sweep_page import write_sweep_report  # loads matplotlib

        page = write_sweep_report(out)
        print((out / "sweep.md").read_text(encoding="utf-8"))
        print(f"Report: {page}")
    return 1 if failures else 0
