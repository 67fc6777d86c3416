"""``simulate``: exit status, results and causes, with Flower replaced by a function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedpdiff.errors import RunError
from fedpdiff.simulation import simulate as module
from fedpdiff.simulation.launcher import COMPLETED
from fedpdiff.simulation.presets import read_presets

QUICKSTART = read_presets()["quickstart"]


def run(monkeypatch: pytest.MonkeyPatch, out: Path, flower: Any, **overrides: Any) -> int:
    monkeypatch.setattr(module, "run_flower", flower)
    return module.simulate(Path("app"), QUICKSTART, {"device": "cpu", **overrides}, str(out))


def finish(folder: Path, table: str = "") -> None:
    """Leave what the server does."""
    (folder / "results.md").write_text(table)
    (folder / "report.html").write_text("")


def test_a_finished_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def flower(app: Path, config: dict, federation: dict, log: Path, on_wait: Any, *_: Any) -> str:
        assert federation["num-supernodes"] == config["clients"] == 3
        assert config["run-dir"] == str(tmp_path)
        (tmp_path / "events").mkdir()
        line = {"time": 1.0, "who": "server", "phase": "global", "state": "start", "done": 0, "total": 9}
        (tmp_path / "events" / "server.jsonl").write_text(json.dumps(line) + "\n")
        on_wait()
        finish(tmp_path, "| the table |\n")
        return COMPLETED

    assert run(monkeypatch, tmp_path, flower, clients=3) == 0
    text = capsys.readouterr().out
    assert "server     global: starts" in text
    assert "| the table |" in text
    assert f"Report: {tmp_path / 'report.html'}" in text


def test_privacy_is_shown_as_soon_as_the_server_states_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statement = {"epsilon": 49.642, "epsilon_theorem_5_1": 53.959, "delta": 1e-5}

    def flower(app: Path, config: dict, federation: dict, log: Path, on_wait: Any, *_: Any) -> str:
        assert not (tmp_path / "privacy.json").exists()  # of an earlier attempt
        for cautions in ([], ["Warning: [large]"], ["Warning: [large]", "Only you can know: more"]):
            found = {"statement": statement, "images": None, "cautions": cautions}
            (tmp_path / "privacy.json").write_text(json.dumps(found))
            on_wait()
            on_wait()
        finish(tmp_path)
        return COMPLETED

    (tmp_path / "privacy.json").write_text("{}")
    assert run(monkeypatch, tmp_path, flower) == 0
    text = capsys.readouterr().out
    for line in (
        "Privacy: epsilon = 49.642 at delta = 1e-05, exact (Theorem 5.1: 53.959), for one image",
        "Warning: [large]",
        "Only you can know: more",
    ):
        assert text.count(line) == 1


@pytest.mark.parametrize("left", ["", "results.md", "report.html", "results.md report.html error.txt"])
def test_flower_is_asked_how_a_run_ended_unless_its_report_is_there(
    left: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    complete = []

    def flower(*given: Any) -> str:
        *_, is_complete = given
        complete.append(is_complete())  # what lies there is of an earlier attempt
        for name in left.split():
            (tmp_path / name).write_text("")
        complete.append(is_complete())
        finish(tmp_path)
        (tmp_path / "error.txt").unlink(missing_ok=True)
        complete.append(is_complete())
        return COMPLETED

    finish(tmp_path)
    assert run(monkeypatch, tmp_path, flower) == 0
    assert complete == [False, False, True]


@pytest.mark.parametrize("status", ["finished:failed", COMPLETED])
def test_a_failed_run_shows_the_log(
    status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def flower(app: Path, config: dict, federation: dict, log: Path, *_: Any) -> str:
        log.write_text("RuntimeError: too few clients\n")
        return status

    assert run(monkeypatch, tmp_path, flower) == 1
    assert "RuntimeError: too few clients" in capsys.readouterr().err


def test_a_failed_run_shows_what_the_server_wrote(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def flower(*_: Any) -> str:
        (tmp_path / "error.txt").write_text("client-1 sent 3 labels too many\n")
        return "finished:failed"

    (tmp_path / "error.txt").write_text("from an earlier attempt")
    assert run(monkeypatch, tmp_path, flower) == 1
    error = capsys.readouterr().err
    assert "the run failed: client-1 sent 3 labels too many" in error
    assert "earlier" not in error


def test_flower_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def flower(*_: Any) -> str:
        raise RunError("Flower's SuperLink did not start")

    assert run(monkeypatch, tmp_path, flower) == 1
    assert "SuperLink did not start" in capsys.readouterr().err
