"""Sweeps: what is planned, what is repeated after a kill, and what the report says."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fedpdiff.errors import ConfigError, RunError
from fedpdiff.report.sweep_page import write_sweep_report
from fedpdiff.results import ClientResults, GroupScores, Results
from fedpdiff.simulation import sweep as module
from fedpdiff.simulation.presets import configure, read_presets
from fedpdiff.simulation.sweep import plan, read_sweep, run_sweep

ROOT = Path(__file__).parents[2]
FILE = """
description = "Two methods, two budgets."
preset = "quickstart"
seeds = [1, 2]
[set]
oracle = false
[grid]
method = ["pfdm", "fedavg"]
epsilon = [10, 30.0]
[size.ci]
personal-steps = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(FILE)
    return path


def finish(run: Any, folder: Path, distance: float = 2.0) -> None:
    """Write what a finished run leaves."""
    config = configure(read_presets()["quickstart"], run.overrides, folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.flat()))
    method = config.method
    scores = {
        group: {method: GroupScores(frechet=distance + config.seed, accuracy=0.4, utility=utility)}
        for group, utility in (("majority", 0.9), ("minority", 0.7))
    }
    Results(
        method=method,
        method_title="FedAvg" if method == "fedavg" else "PFDM",
        server_sees="weights" if method == "fedavg" else "noisy copies",
        seed=config.seed,
        release_noise="secure",
        privacy={"epsilon": None, "guarantee": "none"}
        if method == "fedavg"
        else {"epsilon": 9.9, "delta": 1e-5},
        feature_space="classifier:0",
        class_names=["a", "b"],
        clients=[ClientResults(client=0, name="client-0", groups=scores)],
        gap_closed=[None],
        gap_closed_mean=None,
        gap_spread=[None],
        bytes_up=[1000],
        bytes_down=[2000],
        client_steps=[3],
        seconds={},
    ).write(folder)


def test_a_plan_is_every_combination_for_every_seed(file: Path) -> None:
    runs = plan(read_sweep(file), "ci", {"personal-steps": 5})
    assert len(runs) == len({run.name for run in runs}) == 8
    assert runs[0].overrides == {
        "oracle": False, "personal-steps": 5, "method": "pfdm", "epsilon": 10, "seed": 1,
    }  # fmt: skip
    assert runs[0].name == "method-pfdm_epsilon-10_seed-1"
    assert plan(read_sweep(file), None, {})[0].overrides.get("personal-steps") is None
    with pytest.raises(ConfigError, match="--size gpu: this sweep has settings for ci"):
        plan(read_sweep(file), "gpu", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [", "not a readable sweep file"),
        ("seeds = [1]", "preset"),
        ('preset = "quickstart"\nseeds = []', "seeds"),
        ('preset = "quickstart"\nseeds = [1]\ncolour = 3', "colour"),
        ('preset = "quickstart"\nseeds = [1]\n[grid]\nepsilon = 3', "epsilon"),
    ],
)
def test_wrong_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_sweep(tmp_path / "s.toml")


def test_settings_that_cannot_work_fail_before_the_first_run(file: Path, tmp_path: Path) -> None:
    file.write_text(FILE.replace("[10, 30.0]", "[10, -1]"))
    sweep = read_sweep(file)
    with pytest.raises(ConfigError, match="epsilon = -1"):
        run_sweep(read_presets(), sweep, plan(sweep, None, {}), tmp_path / "out", 1, print)
    assert not (tmp_path / "out").exists()


def test_only_what_is_not_finished_is_run(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose folder has no results is run again, also in the folder that a kill left."""
    sweep, out, ran, said = read_sweep(file), tmp_path / "out", [], []
    runs = plan(sweep, "ci", {})

    def run(preset: str, planned: Any, folder: Path) -> bool:
        ran.append(planned.name)
        if planned.name == runs[3].name:
            folder.mkdir(exist_ok=True)
            (folder / "simulate.log").write_text("...\nthe disk is full\n")
            return True
        finish(planned, folder)
        return False

    monkeypatch.setattr(module, "_run", run)
    finish(runs[0], out / runs[0].name)
    (out / runs[1].name).mkdir()
    failures = run_sweep(read_presets(), sweep, runs, out, 2, said.append)
    assert sorted(ran) == sorted(planned.name for planned in runs[1:])
    assert failures == [f"{runs[3].name}: the disk is full"]
    assert any("FAILED" in line for line in said)
    ran.clear()
    run_sweep(read_presets(), sweep, runs, out, 1, said.append)
    assert ran == [runs[3].name]
    with pytest.raises(ConfigError, match="other settings \\(personal-steps\\)"):
        run_sweep(read_presets(), sweep, plan(sweep, None, {}), out, 1, said.append)


def test_the_report_has_means_spreads_and_words(file: Path, tmp_path: Path) -> None:
    sweep, out = read_sweep(file), tmp_path / "out"
    runs = plan(sweep, "ci", {})
    for planned in runs[:-1]:
        finish(planned, out / planned.name, 2.0 if planned.overrides["method"] == "pfdm" else 3.0)
    names = [planned.name for planned in runs]
    (out / "sweep.json").write_text(json.dumps({"sweep": sweep.model_dump(by_alias=True), "runs": names}))
    page = write_sweep_report(out).read_text()
    table = (out / "sweep.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 4
    assert "| PFDM" in rows[0]
    assert "3.50 ± 0.71" in rows[0]
    assert "20.0 points" in rows[0]
    assert f"Not finished: {runs[-1].name}" in table
    assert "LDP of one image, its pixels replaced" in rows[0]
    assert "only 40 % of rare-class samples" in page
    for text in ("Two methods, two budgets.", "noisy copies", "data:image/png;base64,"):
        assert text in page
    with (out / "sweep.csv").open() as opened:
        found = list(csv.DictReader(opened))
    assert float(found[0]["minority frechet mean"]) == 3.5
    assert (out / "sweep.tex").read_text().count("\\\\") == 5
    assert {path.name for path in (out / "figures").iterdir()} == {
        "methods.png", "bytes.png", "against-epsilon.png",
    }  # fmt: skip


def test_a_report_needs_a_sweep_with_results(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not the folder of a sweep"):
        write_sweep_report(tmp_path)
    (tmp_path / "sweep.json").write_text('{"sweep": {"grid": {}}, "runs": ["a"]}')
    with pytest.raises(RunError, match="no run"):
        write_sweep_report(tmp_path)


def test_the_committed_sweeps_can_run(tmp_path: Path) -> None:
    presets = read_presets()
    files = list((ROOT / "simulations" / "sweeps").glob("*.toml"))
    assert files
    for path in files:
        sweep = read_sweep(path)
        for size in (None, *sweep.size):
            for planned in plan(sweep, size, {"data": "digits"}):
                configure(presets[sweep.preset], planned.overrides, tmp_path)
