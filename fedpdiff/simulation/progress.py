"""Live progress of a run, read from the event files in its folder: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_LINE_SECONDS = 10.0  # without a terminal: a phase reports at most this often
_MOST_BARS = 24  # beyond that, those that are done leave the screen
_STARTING = "starting Flower and Ray, about half a minute"

Event = Mapping[str, Any]


class EventReader:
    """Reads the lines that were added to ``RUN/events/*.jsonl`` since the last call."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "events"
        self._position = {path: path.stat().st_size for path in self._folder.glob("*.jsonl")}

    def new(self) -> list[Event]:
        """Return the new events of all files, in order of time."""
        # Only files that have grown are opened: there is one of each client.
        grown = [path for path in self._folder.glob("*.jsonl") if path.stat().st_size > self._at(path)]
        events = [event for path in sorted(grown) for event in self._read(path)]
        return sorted(events, key=lambda event: event["time"])

    def _read(self, path: Path) -> list[Event]:
        with path.open("rb") as file:
            file.seek(self._at(path))
            complete = file.read().rpartition(b"\n")  # the last line may be half written
        if complete[1]:
            self._position[path] = self._at(path) + len(complete[0]) + 1
        return [json.loads(line) for line in complete[0].splitlines() if line]

    def _at(self, path: Path) -> int:
        return self._position.get(path, 0)


class Display(Protocol):
    """Shows one event after the other."""

    def show(self, event: Event) -> None:
        """Show one event."""

    def say(self, text: str) -> None:
        """Print a line above the progress."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""


def display(console: Console, waiting: str = _STARTING) -> Display:
    """Return bars for a terminal, lines for anything else; ``waiting`` is shown before the first event."""
    return Bars(console, waiting) if console.is_terminal else Lines(console, waiting)


class Bars:
    """One bar per phase and participant."""

    def __init__(self, console: Console, waiting: str = _STARTING) -> None:
        self._first = waiting
        self._progress = Progress(
            TextColumn("{task.fields[who]:<10}"),
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[loss]}"),
            console=console,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._waiting: TaskID | None = None

    def __enter__(self) -> Self:
        """Start drawing."""
        self._progress.start()
        self._waiting = self._progress.add_task(self._first, who="", loss="", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing; the bars stay on the screen."""
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Move the bar of the event's phase."""
        if self._waiting is not None:
            self._progress.remove_task(self._waiting)
            self._waiting = None
        key = (event["who"], event["phase"])
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(_words(event), who=event["who"], loss="", total=None)
        ended = event["state"] == "end"
        total = event["total"] or None
        done = (total or 1) if ended else event["done"]
        fields: dict[str, Any] = {"loss": _loss(event)} if _loss(event) else {}
        self._progress.update(
            self._tasks[key],
            total=total or (1 if ended else None),
            completed=done,
            **fields,
        )
        if ended:
            self._progress.stop_task(self._tasks[key])
            if len(self._tasks) > _MOST_BARS:
                self._progress.remove_task(self._tasks.pop(key))

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


class Lines:
    """One line when a phase starts or ends, and now and then in between."""

    def __init__(self, console: Console, waiting: str = _STARTING) -> None:
        self._first = waiting
        self._console = console
        self._begin = time.time()
        self._last: dict[tuple[str, str], float] = {}

    def __enter__(self) -> Self:
        """Say that the run starts."""
        self._print(time.time(), self._first)
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def show(self, event: Event) -> None:
        """Print the event unless its phase has just reported."""
        key = (event["who"], event["phase"])
        if event["state"] == "progress" and event["time"] - self._last.get(key, 0.0) < _LINE_SECONDS:
            return
        self._last[key] = event["time"]
        amount = {"start": "starts", "end": "done"}.get(event["state"], f"{event['done']}/{event['total']}")
        self._print(event["time"], f"{event['who']:<10} {_words(event)}: {amount}  {_loss(event)}".rstrip())

    def say(self, text: str) -> None:
        """Print a line."""
        self._print(time.time(), text)

    def _print(self, moment: float, text: str) -> None:
        self._console.print(
            f"{max(0.0, moment - self._begin):5.0f} s  {text}", highlight=False, markup=False, soft_wrap=True
        )


def _words(event: Event) -> str:
    return str(event["phase"]).replace("-", " ")


def _loss(event: Event) -> str:
    return "" if event.get("loss") is None else f"loss {event['loss']:.3g}"
