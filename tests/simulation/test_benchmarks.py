"""The benchmarks run, whatever they measure here: no timing is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.benchmarks import __main__ as command
from simulations.benchmarks import many_small_clients, release_speed, start_up, training_speed
from simulations.benchmarks.table import Figure, markdown


@pytest.mark.slow
def test_every_benchmark_writes_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (release_speed, "VALUES", 1000),
        (release_speed, "IMAGES", (10, 1, 8, 8)),
        (start_up, "STARTS", start_up.STARTS[:1]),
        (training_speed, "CASES", (("tiny", 8, 1, 4), ("tiny", 8, 3, 4))),
        (training_speed, "IMAGES", 40),
        (training_speed, "SECONDS", 0.01),
        (many_small_clients, "CLIENTS", (2,)),
        (many_small_clients, "BATCHES", (4,)),
        (many_small_clients, "STEPS", 1),
        (command.sys, "argv", ["benchmarks", "--repetitions", "1", "--out", str(tmp_path)]),
    ):
        monkeypatch.setattr(module, name, value)
    assert command.main() == 0
    for name in command.BENCHMARKS:
        found = json.loads((tmp_path / f"{name}.json").read_text())["figures"]
        assert found and all(figure["median"] > 0 for figure in found)
        assert (tmp_path / f"{name}.md").read_text().count("\n|") == 2 + len(found)


def test_a_goal_is_met_by_the_median() -> None:
    assert Figure("w", (1.0, 1.4, 9.0), "x", 1.3).met is True
    assert Figure("w", (1.0, 1.2, 9.0), "x", 1.3).met is False
    assert Figure("w", (1.0, 1.4, 9.0), "s", 1.3, "at most").met is False
    assert Figure("w", (1.0,), "x").met is None
    table = markdown([Figure("a", (1.0,), "x", 2.0), Figure("b", (1.0, 3.0), "s")])
    assert "| a | 1 x | measured once | at least 2 x | NO |" in table
    assert "| b | 2 s | 1 to 3 |  |  |" in table
