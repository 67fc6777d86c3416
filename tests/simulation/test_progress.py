"""Progress: every complete event is shown once, as bars on a terminal and as lines elsewhere."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from fedpdiff.simulation.progress import Bars, EventReader, Lines, display


def event(time: float, state: str, done: int = 0, **more: Any) -> dict[str, Any]:
    return {"time": time, "who": "client-0", "phase": "personal-training", "state": state, "done": done,
            "total": 100, "loss": None, **more}  # fmt: skip


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def test_events_are_read_once_in_order_and_only_when_complete(tmp_path: Path) -> None:
    reader = EventReader(tmp_path)
    assert reader.new() == []
    first, second, third = event(1.0, "start"), event(2.0, "progress", 5), event(3.0, "end")
    write(tmp_path / "events" / "client-0.jsonl", json.dumps(second) + "\n" + json.dumps(third)[:20])
    write(tmp_path / "events" / "server.jsonl", json.dumps(first) + "\n")
    assert reader.new() == [first, second]
    assert reader.new() == []
    write(tmp_path / "events" / "client-0.jsonl", json.dumps(third)[20:] + "\n")
    assert reader.new() == [third]


def test_events_of_an_earlier_attempt_are_not_shown(tmp_path: Path) -> None:
    write(tmp_path / "events" / "server.jsonl", json.dumps(event(1.0, "start")) + "\n")
    assert EventReader(tmp_path).new() == []


def test_lines_report_now_and_then() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    assert isinstance(display(console), Lines)
    with Lines(console) as lines:
        lines.show(event(100.0, "start"))
        lines.show(event(101.0, "progress", 10, loss=0.5))
        lines.show(event(120.0, "progress", 50, loss=0.1234))
        lines.show(event(121.0, "end", 100))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "client-0   personal training: starts" in text
    assert "50/100  loss 0.123" in text
    assert "10/100" not in text
    assert "personal training: done" in text


def test_bars_end_full() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    assert isinstance(display(console), Bars)
    with Bars(console) as bars:
        bars.show(event(1.0, "start"))
        bars.show(event(2.0, "progress", 40, loss=0.25))
        bars.show(event(3.0, "end", 100))
        bars.show({**event(3.0, "start"), "phase": "waiting", "total": 0})
        bars.show({**event(4.0, "end"), "phase": "waiting", "total": 0})
        assert all(task.finished for task in bars._progress.tasks)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "100/100" in text
    assert "loss 0.25" in text


def test_of_many_bars_those_that_are_done_leave_the_screen() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Bars(console) as bars:
        for number in range(100):
            bars.show({**event(1.0, "start"), "who": f"client-{number}"})
            if number:
                bars.show({**event(2.0, "end", 100), "who": f"client-{number}"})
        shown = {task.fields["who"]: task.finished for task in bars._progress.tasks}
    assert len(shown) < 30
    assert shown["client-0"] is False  # still at work
