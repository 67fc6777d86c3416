"""The benchmarks run, whatever they measure here: no timing is asserted."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset

from fedpdiff.config import RunConfig
from simulations.benchmarks import __main__ as command
from simulations.benchmarks import (
    many_clients,
    many_small_clients,
    overhead,
    rates,
    release_speed,
    sampling_evaluations,
    simulated_run,
    start_up,
    training_speed,
    wire_bits,
)
from simulations.benchmarks.paired import interval, mean_ratio
from simulations.benchmarks.simulated_run import SimulatedRun
from simulations.benchmarks.table import Figure, markdown

SHORT = {"personal-steps": 2, "global-steps": 2, "warmup-steps": 0, "samples-per-class": 14}
PHASES = (
    ("server", "upload", 20, 40),
    ("client-0", "release", 25, 35),
    ("client-1", "release", 30, 37),
    ("server", "global training", 42, 62),
    ("client-0", "personal training", 47, 57),
    ("client-1", "personal training", 52, 67),
    ("client-0", "sampling", 69, 80),
)


def events() -> list[dict[str, Any]]:
    """Return the events of these phases, ordered by time."""
    found = []
    for who, phase, begin, end in PHASES:
        for state, moment in (("start", begin), ("end", end)):
            fields = {"time": float(moment), "done": 0, "total": 1, "loss": None}
            found.append(fields | {"who": who, "phase": phase, "state": state})
    return sorted(found, key=lambda event: event["time"])


def finished(folder: Path, settings: Mapping[str, Any]) -> SimulatedRun:
    """Stand in for a real run: the same phases whatever the settings, and memory that does not grow."""
    (folder / "events").mkdir(parents=True)
    lines = "".join(json.dumps(event) + "\n" for event in events())
    (folder / "events" / "all.jsonl").write_text(lines)
    (folder / "report.html").touch()
    os.utime(folder / "report.html", (90.0, 90.0))
    clients = float(settings.get("clients", 2))  # type: ignore[arg-type]
    return SimulatedRun(folder, 10.0, 90.0 + 5 * clients, dict.fromkeys(simulated_run.ROLES, 10**9))


@pytest.mark.slow
def test_every_benchmark_writes_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (release_speed, "VALUES", 1000),
        (release_speed, "IMAGES", (10, 1, 8, 8)),
        (release_speed, "CIFAR", (10, 3, 8, 8)),
        (start_up, "STARTS", start_up.STARTS[:1]),
        (training_speed, "CASES", (("tiny", 8, 1, 4), ("tiny", 8, 3, 4))),
        (training_speed, "IMAGES", 40),
        (training_speed, "SECONDS", 0.01),
        (rates, "CASES", rates.CASES[:1]),
        (rates, "IMAGES", 300),
        (rates, "STEPS", 1),
        (sampling_evaluations, "SETTINGS", SHORT),
        (sampling_evaluations, "EQUAL", (2,)),
        (sampling_evaluations, "UNEQUAL", ((2, 3),)),
        (wire_bits, "SETTINGS", SHORT),
        (overhead, "simulate", finished),
        (many_clients, "simulate", finished),
        (many_clients, "CLIENTS", (2, 3, 5)),
        (many_small_clients, "CLIENTS", (2,)),
        (many_small_clients, "MANY", 2),
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
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {"sampling_evaluations", "wire_bits", "overhead", "many_clients"}


def test_a_goal_is_met_by_the_median() -> None:
    assert Figure("w", (1.0, 1.4, 9.0), "x", 1.3).met is True
    assert Figure("w", (1.0, 1.2, 9.0), "x", 1.3).met is False
    assert Figure("w", (1.0, 1.4, 9.0), "s", 1.3, "at most").met is False
    assert Figure("w", (1.0,), "x").met is None
    table = markdown([Figure("a", (1.0,), "x", 2.0), Figure("b", (1.0, 3.0), "s")])
    assert "| a | 1 x | measured once | at least 2 x | NO |" in table
    assert "| b | 2 s | 1 to 3 |  |  |" in table
    assert "| d | 1,234 MB | 0.00123 to 2,469 |" in markdown([Figure("d", (0.001234, 1234.5, 2469.4), "MB")])


def test_an_interval_is_shown_beside_the_spread() -> None:
    assert "1 to 3; mean in 0.5 to 4 |" in markdown([Figure("c", (1.0, 3.0), "x", interval=(0.5, 4.0))])


def test_the_interval_of_a_mean_ratio() -> None:
    assert mean_ratio((0.5, 2.0)) == pytest.approx(1.0)
    # Two values: Student's t with one degree of freedom has its 97.5 % point at tan(0.475 pi).
    low, high = interval((0.5, 2.0)) or (0.0, 0.0)
    assert math.log(high) == pytest.approx(math.tan(0.475 * math.pi) * math.log(2))
    assert low == pytest.approx(1 / high)
    assert interval((1.3,)) is None


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    # 2,000 experiments of 5 paired runs: 95 % +- 4 standard errors of 0.49 %, a false alarm in 16,000. With a
    # normal quantile in place of Student's it would be 88 %.
    logs = np.random.default_rng(5).normal(0.1, 0.3, (2000, 5))
    ends = [interval(np.exp(row).tolist()) for row in logs]
    held = np.mean([low < math.exp(0.1) < high for low, high in ends])  # type: ignore[misc]
    assert abs(held - 0.95) < 0.0195


def test_where_a_run_does_not_compute() -> None:
    shares = overhead.rest(events(), began=10.0, report=90.0, ended=110.0)
    wanted = {"start": 10, "upload": 8, "between": 4, "report": 10, "stop": 20}
    assert shares == pytest.approx({name: seconds / 100 for name, seconds in wanted.items()})
    # Computing: 25 to 37, 42 to 67, 69 to 80.
    assert sum(shares.values()) == pytest.approx(1 - (12 + 25 + 11) / 100)


def test_how_much_of_the_global_training_the_clients_train_as_well() -> None:
    assert overhead.overlap(events()) == pytest.approx((62 - 47) / 20)


def test_what_a_further_client_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_clients, "simulate", finished)
    monkeypatch.setattr(many_clients, "CLIENTS", (2, 4, 8))
    figures = {figure.what: figure for figure in many_clients.measure(1)}
    assert figures["a further client, from 2 to 4"].median == 5
    assert figures["the last of these against the first"].median == 1
    assert figures["memory of driver and ServerApp with 8 clients, against 2"].met is True


def test_images_of_many_clients_are_all_different(tmp_path: Path) -> None:
    folder = many_clients.write_images(tmp_path / "data", 300)
    found = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert len(found["train"]) == 3000 and len(found["test"]) == many_clients.TEST
    assert len({image.tobytes() for image in found["train"]["image"]}) == 3000
    RunConfig.parse(many_clients.SETTINGS | {"clients": 300, "data": str(folder)})


@pytest.mark.slow
def test_a_real_run_is_watched_and_ends_whole(tmp_path: Path) -> None:
    clients = 3
    data = many_clients.write_images(tmp_path / "data", clients)
    settings = many_clients.SETTINGS | {"data": str(data), "clients": clients, "min-clients": clients}
    run = simulated_run.simulate(tmp_path / "run", settings)
    assert run.seconds > 0 and (run.folder / "report.html").exists()
    assert all(peak > 10**7 for peak in run.peaks.values())
    with pytest.raises(SystemExit, match="the run failed"):
        simulated_run.simulate(tmp_path / "other", settings | {"clients": 7, "min-clients": 9})
