"""Progress of a run as JSON lines, one file per participant; what the terminal and the report show."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OUT_OF_MEMORY = "out of memory, waits to be alone"
"""The phase of a client that ran out of the device's memory, until it has the device for itself."""


class EventLog:
    """Appends one JSON object per line to ``folder/<who>.jsonl``.

    A line holds ``time`` (Unix seconds), ``who``, ``phase``, ``state`` (``start``, ``progress`` or ``end``),
    ``done``, ``total`` and ``loss`` (or null). A real site's losses are computed from private images: its
    events stay in its own folder.

    Parameters
    ----------
    folder
        Folder of the event files; made when missing.
    who
        ``"server"`` or ``"client-<k>"``.

    Attributes
    ----------
    listener
        Called with every event as well, for whoever watches in the same process.
    """

    def __init__(self, folder: Path, who: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{who}.jsonl"
        self._who = who
        self.listener: Callable[[dict[str, Any]], None] | None = None

    def write(self, phase: str, state: str, done: int = 0, total: int = 0, loss: float | None = None) -> None:
        """Append one event."""
        event: dict[str, Any] = {"time": time.time(), "who": self._who, "phase": phase, "state": state}
        event |= {"done": done, "total": total, "loss": loss}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        if self.listener:
            self.listener(event)

    @contextmanager
    def phase(self, name: str, total: int = 0) -> Iterator[Progress]:
        """Write the start and, whatever happens, the end of a phase; yields a progress callback."""
        self.write(name, "start", 0, total)
        progress = Progress(self, name)
        try:
            yield progress
        finally:
            self.write(name, "end", progress.done, total)


class Progress:
    """Callback that writes progress lines: ``progress(done, total, loss)``."""

    def __init__(self, log: EventLog, phase: str) -> None:
        self._log = log
        self._phase = phase
        self.done = 0

    def __call__(self, done: int, total: int, loss: float | None = None) -> None:
        """Write one line."""
        self.done = done
        self._log.write(self._phase, "progress", done, total, loss)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return all events in ``folder``, ordered by time; half-written last lines are left out."""
    events = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
    return sorted(events, key=lambda event: event["time"])


def ran_out_of_memory(events: list[dict[str, Any]]) -> list[str]:
    """Return who ran out of the device's memory and did its work again, alone there, in order of time."""
    return list(dict.fromkeys(str(event["who"]) for event in events if event["phase"] == OUT_OF_MEMORY))
