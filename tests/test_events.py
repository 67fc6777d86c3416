"""Events: one line each, in order of time, and an end for every start."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpdiff.events import EventLog, read_events


def test_a_phase(tmp_path: Path) -> None:
    server, client = EventLog(tmp_path, "server"), EventLog(tmp_path, "client-0")
    with server.phase("global training", 20) as progress:
        progress(10, 20, 0.5)
        client.write("release", "start")
    events = read_events(tmp_path)
    assert [(e["who"], e["state"], e["done"], e["total"], e["loss"]) for e in events] == [
        ("server", "start", 0, 20, None),
        ("server", "progress", 10, 20, 0.5),
        ("client-0", "start", 0, 0, None),
        ("server", "end", 10, 20, None),
    ]


def test_a_phase_that_fails_ends_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), EventLog(tmp_path, "server").phase("upload"):
        raise ValueError("no")
    assert [event["state"] for event in read_events(tmp_path)] == ["start", "end"]


def test_half_a_line_is_left_out(tmp_path: Path) -> None:
    EventLog(tmp_path, "server").write("upload", "start")
    with (tmp_path / "server.jsonl").open("a") as file:
        file.write('{"time": 1.0, "who"')
    assert len(read_events(tmp_path)) == 1
    assert read_events(tmp_path / "nothing") == []
