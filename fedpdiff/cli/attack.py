"""``fedpdiff attack``: every attack on a finished simulation, with controls that show that they work."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console

    from fedpdiff.attack_results import AttackResults

_LINE_SECONDS = 10.0  # without a terminal: a step reports at most this often


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "attack",
        help="attack a finished simulation and compare with what its guarantee allows",
        description="Mount every attack on the uploads and models of a finished simulation (membership, "
        "re-identification, reconstruction, attributes, memorisation), beside what the guarantee allows and "
        "beside controls that every working attack must defeat. Writes attacks.json and makes the report "
        "again. Exits with 1 when a control failed or something lies above its cap.",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--images", type=int, default=500, metavar="N", help="most images on each side of an attack (500)"
    )
    parser.add_argument(
        "--clients", type=int, default=2, metavar="N", help="how many clients' own models are attacked (2)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default auto")
    parser.add_argument("--json", action="store_true", help="print attacks.json instead of tables")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks.

    Returns
    -------
    int
        0 when every control worked and nothing lies above its cap, else 1.
    """
    from rich.console import Console

    from fedpdiff.evidence.mount import Effort, mount_attacks

    effort = Effort(arguments.images, arguments.clients)
    began = time.monotonic()
    with _Shown(Console(stderr=True)) as shown:
        results = mount_attacks(arguments.run_folder, effort, arguments.device, shown.say)
    _print(arguments, results, time.monotonic() - began)
    return 0 if results.controls_work and not results.exceeded else 1


def _print(arguments: argparse.Namespace, results: AttackResults, seconds: float) -> None:
    from fedpdiff.attack_results import FILE_NAME
    from fedpdiff.report.attack_tables import attack_tables
    from fedpdiff.report.page import write_report

    page = write_report(arguments.run_folder)
    if arguments.json:
        print(results.model_dump_json(indent=2))
        return
    print(f"\n{attack_tables(results)}")
    print(f"Results: {(arguments.run_folder / FILE_NAME).resolve()}")
    print(f"Report:  {page.resolve()}")
    print(f"Time:    {int(seconds) // 60} min {int(seconds) % 60} s")


class _Shown:
    """Progress: a bar for each step on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        self._console = console
        self._began = time.monotonic()
        self._lines: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description:<44}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=console,
        )

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing; the bars stay on the screen."""
        if self._console.is_terminal:
            self._bars.stop()

    def say(self, what: str, done: int, total: int) -> None:
        """Show how far a step is."""
        if self._console.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.update(self._tasks[what], completed=done, total=total)
            return
        now = time.monotonic()
        if what not in self._lines or (done < total and now - self._lines[what] >= _LINE_SECONDS):
            self._lines[what] = now
            text = f"{now - self._began:5.0f} s  {what}"
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
