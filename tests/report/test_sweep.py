"""The report of a sweep: means, gaps and words from result files alone, as tables, figures and one page."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.errors import RunError
from fedpdiff.report.sweep_page import write_sweep_report
from fedpdiff.report.sweep_rows import SweepRows, read_sweep_rows
from fedpdiff.report.sweep_table import cells, header
from fedpdiff.report.sweep_words import findings
from fedpdiff.results import ClientResults, GroupScores, Results

CLASSES = {"majority": [0, 1], "minority": [2]}
TITLES = {"pfdm": "PFDM", "local-only": "local-only", "centralised": "centralised", "fedavg": "FedAvg"}


def write_run(
    out: Path,
    point: Mapping[str, Any],
    seed: int,
    minority: Mapping[str, float],
    clients: int = 2,
    space: str = "",
    samples: bool = False,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the folder of one run, minority distances by column, and return its entry of the plan."""
    method = point.get("method", "pfdm")
    name = "_".join([*(f"{key}-{value}" for key, value in point.items()), f"seed-{seed}"])
    scores = {
        group: {
            column: GroupScores(frechet=value * factor, accuracy=0.9, utility=utility)
            for column, value in minority.items()
        }
        for group, factor, utility in (("minority", 1.0, 0.7), ("majority", 0.5, 0.9))
    }
    Results(
        method=method,
        method_title=TITLES[method],
        server_sees="noisy copies" if method == "pfdm" else "weights",
        seed=seed,
        release_noise="secure",
        privacy={"epsilon": point.get("epsilon", 29.916), "delta": 1e-5, "alpha_bar": 0.9, "t0": 100}
        if method == "pfdm"
        else {"epsilon": None, "guarantee": "none"},
        feature_space=space or f"classifier:{seed:08d}",
        class_names=["a", "b", "c"],
        clients=[
            ClientResults(client=k, name=f"client-{k}", classes=CLASSES, groups=scores)
            for k in range(clients)
        ],
        gap_closed=[None] * clients,
        gap_closed_mean=None,
        gap_spread=[None] * clients,
        bytes_up=[0 if method in ("local-only", "centralised") else 1_000_000] * clients,
        bytes_down=[0 if method in ("local-only", "centralised") else 2_000_000] * clients,
        client_steps=[3] * clients,
        seconds={},
    ).write(out / name)
    (out / name / "config.json").write_text(json.dumps({"method": method, **(config or {})}))
    if samples:
        own = {"local-only": "local"}.get(method, method)
        for column in ("real", own):
            images = np.random.default_rng(seed).integers(0, 255, (12, 1, 8, 8), dtype=np.uint8)
            (out / name / "client-0" / "samples").mkdir(parents=True, exist_ok=True)
            labels = np.repeat([0, 1, 2], 4)
            np.savez(out / name / "client-0" / "samples" / f"{column}.npz", images=images, labels=labels)
    return {"name": name, "point": dict(point)}


def write_plan(out: Path, runs: list[dict[str, Any]], description: str = "Methods <compared>") -> SweepRows:
    (out / "sweep.json").write_text(json.dumps({"description": description, "preset": "x", "runs": runs}))
    return read_sweep_rows(out)


RIVALS = {"pfdm": 4.0, "local-only": 6.0, "centralised": 2.0, "fedavg": 3.0}


@pytest.fixture
def rivals(tmp_path: Path) -> Path:
    """Return the folder of four methods over two seeds; distances rise by 0.1 with the seed."""
    runs = []
    for seed in (1, 2):
        for method, distance in RIVALS.items():
            column = {"local-only": "local"}.get(method, method)
            scores = {column: distance + 0.1 * seed}
            runs.append(write_run(tmp_path, {"method": method}, seed, scores, samples=True))
    runs.append({"name": "method-fedprox_seed-1", "point": {"method": "fedprox"}})
    write_plan(tmp_path, runs)
    return tmp_path


def test_rows_are_means_over_clients_and_seeds(rivals: Path) -> None:
    table = [
        dict(zip(header(read_sweep_rows(rivals)), row, strict=True)) for row in cells(read_sweep_rows(rivals))
    ]
    assert [row["method"] for row in table] == ["centralised", "FedAvg", "PFDM", "local-only"]
    pfdm = table[2]
    assert pfdm["minority Frechet"] == "4.15 ± 0.071"
    assert pfdm["majority Frechet"] == "2.08 ± 0.035"
    assert pfdm["fairness gap"] == "20.0 points"
    assert (pfdm["up"], pfdm["down"]) == ("1.0 MB", "2.0 MB")
    assert pfdm["guarantee"].startswith("(29.916, 1e-05)-LDP of one image, its pixels replaced")


def test_the_gap_is_taken_from_the_sweeps_own_bounds(rivals: Path) -> None:
    """(6 - 4) / (6 - 2) and (6 - 3) / (6 - 2): the shift by the seed cancels."""
    rows = {row.method: row for row in read_sweep_rows(rivals).rows}
    assert rows["pfdm"].gap_closed == pytest.approx(0.5)
    assert rows["fedavg"].gap_closed == pytest.approx(0.75)
    assert rows["local-only"].gap_closed is rows["centralised"].gap_closed is None


def test_a_gap_of_one_seed_a_noisy_gap_and_one_between_spaces_are_no_numbers(tmp_path: Path) -> None:
    def gap(folder: str, seeds: tuple[int, ...], local: Mapping[int, float], space: str = "") -> float | None:
        out, runs = tmp_path / folder, []
        for seed in seeds:
            runs.append(write_run(out, {"method": "pfdm"}, seed, {"pfdm": 4.0}))
            runs.append(write_run(out, {"method": "local-only"}, seed, {"local": local[seed]}))
            runs.append(write_run(out, {"method": "centralised"}, seed, {"centralised": 2.0}, space=space))
        return write_plan(out, runs).rows[0].gap_closed

    assert gap("fine", (1, 2), {1: 6.0, 2: 6.2}) == pytest.approx(2.1 / 4.1)
    assert gap("one", (1,), {1: 6.0}) is None
    assert gap("noisy", (1, 2), {1: 2.1, 2: 9.0}) is None
    assert gap("spaces", (1, 2), {1: 6.0, 2: 6.2}, space="classifier:other") is None


def test_pfdms_own_bounds_stand_in_where_the_sweep_has_none(tmp_path: Path) -> None:
    runs = []
    for seed in (1, 2):
        for clients in (4, 8):
            own = {"pfdm": 4.0, "local": 4.0 + clients / 4}
            point = {"clients": clients, "method": "pfdm"}
            runs.append(write_run(tmp_path, point, seed, own, clients))
            bound = {"clients": clients, "method": "centralised"}
            runs.append(write_run(tmp_path, bound, seed, {"centralised": 3.0}, clients))
    sweep = write_plan(tmp_path, runs)
    assert [(row.method, row.point["clients"]) for row in sweep.rows if row.method != "pfdm"] == [
        ("centralised", 4), ("centralised", 8), ("local-only", 4), ("local-only", 8)
    ]  # fmt: skip
    local = next(row for row in sweep.rows if row.method == "local-only" and row.point["clients"] == 8)
    assert local.minority is not None and local.minority.mean == pytest.approx(6.0)
    assert local.bytes_up == local.bytes_down == 0
    gaps = {row.point["clients"]: row.gap_closed for row in sweep.rows if row.method == "pfdm"}
    assert gaps == {4: pytest.approx(1 / 2), 8: pytest.approx(2 / 3)}
    write_sweep_report(tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "against-clients.png", "gap-clients.png",
    }  # fmt: skip


def test_a_bound_of_several_budgets_is_one_row(tmp_path: Path) -> None:
    """As long as they say the same; of other seeds they need not."""

    def alone(folder: str, seeds: Mapping[float, tuple[int, ...]]) -> list[tuple[float | None, float]]:
        runs = [
            write_run(tmp_path / folder, {"method": "pfdm", "epsilon": epsilon}, seed,
                      {"pfdm": 4.0, "local": 5.0 + seed})
            for epsilon, some in seeds.items()
            for seed in some
        ]  # fmt: skip
        rows = write_plan(tmp_path / folder, runs).rows
        return [
            (row.point.get("epsilon"), row.minority.mean)
            for row in rows
            if row.method == "local-only" and row.minority
        ]

    assert alone("same", {1.0: (1, 2), 10.0: (1, 2)}) == [(None, 6.5)]
    assert alone("other", {1.0: (1, 2), 10.0: (1, 2), 100.0: (1,)}) == [(1.0, 6.5), (10.0, 6.5), (100.0, 6.0)]


def test_variants_are_drawn_one_below_the_other(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, {"variant": name, "method": "pfdm", "epsilon": epsilon}, 1,
                  {"pfdm": distance, "local": 5.0})
        for name, distance in (("published", 9.0), ("+ one chain", 4.0))
        for epsilon in (1.0, 100.0)
    ]  # fmt: skip
    runs.append(write_run(tmp_path, {"method": "centralised"}, 1, {"centralised": 2.0}))
    sweep = write_plan(tmp_path, runs)
    assert [row.point for row in sweep.rows if row.method == "local-only"] == [
        {"variant": "published", "method": "local-only"}, {"variant": "+ one chain", "method": "local-only"},
    ]  # fmt: skip
    write_sweep_report(tmp_path)
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert "variants.png" in drawn and "epsilon.png" not in drawn


def test_what_beats_pfdm_is_said(rivals: Path, tmp_path: Path) -> None:
    said = findings(read_sweep_rows(rivals))
    assert said == [
        "PFDM, rare classes at 4.15 ± 0.071: better by more than the spreads over seeds: centralised 2.15 ± "
        "0.071, FedAvg 3.15 ± 0.071."
    ]
    out, runs = tmp_path / "close", []
    for seed, shift in ((1, 0.0), (2, 1.0)):
        for method, distance in (("pfdm", 4.0), ("fedavg", 3.9), ("local-only", 5.0)):
            column = {"local-only": "local"}.get(method, method)
            runs.append(write_run(out, {"method": method}, seed, {column: distance + shift}))
    said = findings(write_plan(out, runs))
    assert said == [
        "PFDM, rare classes at 4.50 ± 0.71: better, but within the spreads over seeds: FedAvg 4.40 ± 0.71."
    ]
    out, runs = tmp_path / "best", []
    for method, distance in (("pfdm", 4.0), ("fedavg", 4.9)):
        runs.append(write_run(out, {"method": method}, 1, {method: distance}))
    assert findings(write_plan(out, runs)) == ["PFDM, rare classes at 4.00: no other method is better."]


def test_images_learnt_by_heart_are_said(tmp_path: Path) -> None:
    """Recall of rare samples a quarter of that of frequent ones in one point, nearly equal in another."""
    runs = []
    for epsilon, recall in ((1.0, 0.2), (10.0, 0.7)):
        config = {"class-balance": 1.0, "label-dropout": 0.2}
        entry = write_run(tmp_path, {"epsilon": epsilon}, 1, {"pfdm": 4.0}, config=config)
        results = tmp_path / entry["name"] / "results.json"
        content = json.loads(results.read_text())
        for client in content["clients"]:
            for group, value in (("minority", recall), ("majority", 0.8)):
                client["groups"][group]["pfdm"]["recall"] = value
        results.write_text(json.dumps(content))
        runs.append(entry)
    lines = [line for line in findings(write_plan(tmp_path, runs)) if "by heart" in line]
    assert len(lines) == 1
    assert lines[0].startswith("PFDM (epsilon = 1.0): Samples of rare classes cover 25 %")


def test_a_frontier_compares_every_epsilon_with_what_has_none(tmp_path: Path) -> None:
    runs = []
    for epsilon, distance in ((1.0, 7.0), (10.0, 5.0)):
        point = {"method": "pfdm", "epsilon": epsilon}
        runs.append(write_run(tmp_path, point, 1, {"pfdm": distance, "oracle": 6.5}))
    runs.append(write_run(tmp_path, {"method": "local-only"}, 1, {"local": 6.0}))
    sweep = write_plan(tmp_path, runs)
    assert header(sweep)[:2] == ["method", "epsilon"]
    assert [row[:2] for row in cells(sweep)] == [["local-only", "–"], ["PFDM", "1.0"], ["PFDM", "10.0"]]
    said = findings(sweep)
    assert said[0] == (
        "PFDM (epsilon = 1.0), rare classes at 7.00: better (one seed: no spread): local-only 6.00."
    )
    assert said[1] == "PFDM (epsilon = 10.0), rare classes at 5.00: no other method is better."
    assert "no better than what a client makes alone (7.00 against 6.00)" in said[2]
    assert len(said) == 3
    write_sweep_report(tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"epsilon.png"}
    assert dict(zip(header(sweep), cells(sweep)[1], strict=True))["oracle hand-off"] == "6.50"


def test_different_feature_spaces_are_said(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, {"method": method}, 1, {method: 3.0}, space=f"classifier:{method}")
        for method in ("pfdm", "fedavg")
    ]
    assert any(
        "measured in different feature spaces" in line for line in findings(write_plan(tmp_path, runs))
    )


def test_the_figure_of_one_pixel_stands_beside_that_of_the_image(tmp_path: Path) -> None:
    """Unclipped uploads only; 2 abar/(1-abar) + sqrt(8 abar log(1/delta)/(1-abar)) = 46.79 at abar = 0.9."""
    runs = [write_run(tmp_path, {}, 1, {"pfdm": 3.0}, config={"clip-rule": "none"})]
    guarantee = write_plan(tmp_path, runs).rows[0].guarantee
    assert "one pixel value alone, a far weaker unit" in guarantee
    expected = 2 * 9 + np.sqrt(8 * 9 * np.log(1e5))
    found = re.search(r"\(([\d.]+) by the paper's formula\)", guarantee)
    assert found is not None and float(found[1]) == pytest.approx(expected, abs=0.002)


def test_a_privacy_loss_is_never_rounded_down(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, {"epsilon": e}, 1, {"pfdm": 3.0}) for e in (29.9161, 10.0)]
    rows = write_plan(tmp_path, runs).rows
    assert rows[0].guarantee.startswith("(29.917, ")


def test_the_page_and_the_files(rivals: Path) -> None:
    page = write_sweep_report(rivals).read_text(encoding="utf-8")
    assert "Methods &lt;compared&gt;" in page and "<compared>" not in page
    assert not re.search(r"https?://|@import|url\(|<script", page)
    assert page.count("data:image/png;base64,") == 3  # samples, methods, bytes
    for text in ("better by more than the spreads", "Not finished: method-fedprox_seed-1.", "noisy copies"):
        assert text in page
    markdown = (rivals / "sweep.md").read_text()
    assert len([line for line in markdown.splitlines() if line.startswith("|")]) == 2 + 4
    assert "seeds 1, 2" in markdown and "- PFDM, rare classes at" in markdown
    with (rivals / "sweep.csv").open() as opened:
        found = {row["method"]: row for row in csv.DictReader(opened)}
    assert float(found["pfdm"]["minority frechet mean"]) == pytest.approx(4.15)
    assert float(found["pfdm"]["gap_closed"]) == pytest.approx(0.5)
    assert found["local-only"]["gap_closed"] == ""
    latex = (rivals / "sweep.tex").read_text()
    columns = re.search(r"begin\{tabular\}\{([lr]+)\}", latex)
    rows = [line for line in latex.splitlines() if line.endswith("\\\\")]
    assert columns is not None and len(rows) == 1 + 4
    assert all(row.count(" & ") == len(columns[1]) - 1 for row in rows)
    assert not list(rivals.rglob("*.tmp"))


def test_result_files_alone_are_enough(rivals: Path) -> None:
    before = findings(read_sweep_rows(rivals))
    for path in rivals.glob("*/client-0"):
        subprocess.run(["rm", "-r", str(path)], check=True)
    write_sweep_report(rivals)
    assert not (rivals / "figures" / "samples.png").exists()
    assert findings(read_sweep_rows(rivals)) == before


def test_a_report_needs_a_sweep_with_results(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not the folder of a sweep"):
        write_sweep_report(tmp_path)
    (tmp_path / "sweep.json").write_text('{"runs": [{"name": "a", "point": {}}]}')
    with pytest.raises(RunError, match="no run"):
        write_sweep_report(tmp_path)
