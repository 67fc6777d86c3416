"""The launcher: real Flower runs of a small app that finishes, fails, is refused, or is interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fedpdiff.errors import RunError
from fedpdiff.simulation import launcher
from fedpdiff.simulation.launcher import COMPLETED, federation_settings, run_flower, tail, to_toml

LAUNCH = """
import sys
from pathlib import Path
from fedpdiff.simulation.launcher import federation_settings, run_flower
app, out = Path(sys.argv[1]), Path(sys.argv[2])
run_flower(app, {"mode": "hang", "out": str(out)}, federation_settings(3), out / "flower.log")
"""


def marked(mark: str) -> list[str]:
    """Return the names of running processes whose environment holds ``mark``, except this one."""
    names = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_MARK") == mark and process.pid != psutil.Process().pid:
                names.append(" ".join(process.cmdline()[:2]))
        except (psutil.Error, OSError):
            continue
    return names


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Mark every process that this test starts, and check that none is left."""
    name = uuid.uuid4().hex
    monkeypatch.setenv("TEST_MARK", name)
    yield name
    assert marked(name) == []


def test_toml_round_trip() -> None:
    settings = {"a": True, "b": 3, "c": 1e-5, "d": 10.0, "e": 'quote " back \\ tab \t é', "f": ""}
    assert tomllib.loads(to_toml(settings)) == settings


@pytest.mark.parametrize(("clients", "gpus"), [(1, 1), (2, 1), (3, 2), (10, 1), (7, 3), (4, 8)])
def test_all_clients_at_once_fit_the_gpus(clients: int, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    settings = federation_settings(clients, gpus)
    share = settings["client-resources-num-gpus"]
    assert 0 < share <= 1
    assert int(1 / share) * gpus >= clients
    assert "client-resources-num-gpus" not in federation_settings(clients)


def test_the_tail_of_a_log_leaves_out_routine(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        "\x1b[92mINFO \x1b[0m: hello\n\n2026 INFO [uvicorn.access] GET\nValueError: no\n"
    )
    assert tail(tmp_path / "log") == "ValueError: no"


@pytest.mark.slow
@pytest.mark.parametrize("known", [False, True])
def test_a_run_that_finishes(
    known: bool, small_app: Path, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, asked = [], []
    ask = launcher._status
    monkeypatch.setattr(launcher, "_status", lambda *given: asked.append(1) or ask(*given))
    settings = {"mode": "finish", "out": str(tmp_path)}
    log, left = tmp_path / "flower.log", tmp_path / "replies.json"
    status = run_flower(
        small_app,
        settings,
        federation_settings(3),
        log,
        lambda: waits.append(1),
        is_complete=lambda: known and left.exists(),
    )
    assert status == COMPLETED and bool(asked) != known
    assert len(waits) > 3
    replies = json.loads(left.read_text())
    assert len(replies) == 3
    assert all(not str(small_app).startswith(reply["folder"]) for reply in replies)
    assert "Finished task" in log.read_text()


@pytest.mark.slow
def test_a_run_that_fails(small_app: Path, tmp_path: Path, mark: str) -> None:
    log = tmp_path / "flower.log"
    settings = {"mode": "fail", "out": str(tmp_path)}
    assert run_flower(small_app, settings, federation_settings(3), log) == "finished:failed"
    assert "RuntimeError: the server app went wrong" in tail(log)


@pytest.mark.slow
def test_a_run_that_is_refused(small_app: Path, tmp_path: Path, mark: str) -> None:
    with pytest.raises(RunError, match=r"(?s)refused the run.*Invalid run configuration"):
        run_flower(small_app, {"unknown": 1}, federation_settings(3), tmp_path / "flower.log")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted(
    number: signal.Signals, small_app: Path, tmp_path: Path, mark: str
) -> None:
    process = subprocess.Popen([sys.executable, "-c", LAUNCH, small_app, tmp_path])
    deadline = time.monotonic() + 400
    while not (tmp_path / "replies.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    names = " ".join(marked(mark))
    assert all(
        name in names for name in ("flower-superlink", "flower-superexec", "flwr-simulation", "raylet")
    )
    process.send_signal(number)
    assert process.wait(120) == 128 + number
