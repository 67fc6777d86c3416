"""The map of a sweep over epsilon and images of rare classes, from result files alone."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import pytest

from fedpdiff.advice.answer import predict
from fedpdiff.advice.question import Question
from fedpdiff.report.sweep_map import advice_error, map_table, minority_images, read_map
from fedpdiff.report.sweep_page import write_sweep_report
from fedpdiff.report.sweep_rows import read_sweep_rows
from fedpdiff.results import CertificateSummary, ClientResults, GroupScores, Results

CONFIG = {"image-size": 8, "channels": 1, "delta": 1e-5}
IMAGES = 500


def write_run(out: Path, epsilon: float, few: int, seed: int, pfdm: float) -> dict:
    """Write one run of PFDM with its own local-only column: distance 10 alone, 4 by the oracle."""
    point = {"method": "pfdm", "epsilon": epsilon, "partitioner-settings": f"minority_images = {few}"}
    name = f"epsilon-{epsilon}_few-{few}_seed-{seed}"
    if few:
        scores = {
            "minority": {
                "local": GroupScores(frechet=10.0 + seed, accuracy=0.8),
                "pfdm": GroupScores(frechet=pfdm * (10.0 + seed), accuracy=0.9),
                "oracle": GroupScores(frechet=4.0 + 0.4 * seed, accuracy=0.9),
            }
        }
    else:
        scores = {"absent": {"local": GroupScores(accuracy=0.01), "pfdm": GroupScores(accuracy=pfdm)}}
    results = Results(
        seed=seed,
        release_noise="secure",
        privacy={"epsilon": epsilon, "delta": 1e-5, "alpha_bar": 0.5, "t0": 100},
        feature_space=f"classifier:{seed}",
        class_names=[str(k) for k in range(10)],
        clients=[ClientResults(client=k, name=f"client-{k}", groups=scores) for k in range(2)],
        gap_closed=[None, None],
        gap_closed_mean=None,
        gap_spread=[None, None],
        bytes_up=[1, 1],
        bytes_down=[1, 1],
        seconds={},
        certificates=[CertificateSummary(site=f"client-{k}", images=IMAGES, verified=True) for k in range(2)],
    )
    results.write(out / name)
    (out / name / "config.json").write_text(json.dumps(CONFIG))
    return {"name": name, "point": point}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs = [
        write_run(tmp_path, epsilon, few, seed, share)
        for seed in (1, 2)
        for epsilon, few, share in ((10.0, 0, 0.15), (100.0, 0, 0.7), (10.0, 8, 0.98), (100.0, 8, 0.75))
    ]
    (tmp_path / "sweep.json").write_text(json.dumps({"description": "", "runs": runs}))
    return tmp_path


def test_cells_hold_what_was_measured_beside_what_was_expected(folder: Path) -> None:
    cells = {(cell.epsilon, cell.minority): cell for cell in read_map(read_sweep_rows(folder))}
    assert list(cells) == [(10.0, 0), (10.0, 8), (100.0, 0), (100.0, 8)]
    rare = cells[100.0, 8]
    assert rare.gain is not None and rare.gain.mean == pytest.approx(0.25)
    assert rare.oracle is not None and rare.oracle.mean == pytest.approx(0.6)
    assert rare.recognised is None
    assert rare.expected == predict(Question(100.0, 2 * IMAGES, 8, (8, 8, 1)))
    absent = cells[100.0, 0]
    assert absent.gain is None and absent.oracle is None
    assert absent.recognised is not None and absent.recognised.mean == pytest.approx(0.7)
    assert absent.recognised_alone is not None and absent.recognised_alone.mean == pytest.approx(0.01)
    assert absent.expected is not None and absent.expected.recognised is not None


def test_the_error_of_the_advice_is_stated(folder: Path) -> None:
    cells = read_map(read_sweep_rows(folder))
    outcomes = [predict(Question(epsilon, 2 * IMAGES, 8, (8, 8, 1))) for epsilon in (10.0, 100.0)]
    off = [100 * ((outcome.gain or 0) - seen) for outcome, seen in zip(outcomes, (0.02, 0.25), strict=True)]
    lines = advice_error(cells)
    assert f"mean error of {(abs(off[0]) + abs(off[1])) / 2:.0f} points" in lines[0]
    assert "rightly in 2 of 2 cells" in lines[1]
    assert "oracle hand-off" in lines[2] and "absent classes recognised" in lines[3]


def test_the_report_has_table_and_figure_from_files_alone(folder: Path) -> None:
    page = write_sweep_report(folder).read_text(encoding="utf-8")
    text = (folder / "sweep.md").read_text()
    assert "## Where collaborating pays" in text and "Where collaborating pays" in page
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| 8")
    ]
    assert [row[:3] for row in rows] == [["8", "10", "2 ± 0 %"], ["8", "100", "25 ± 0 %"]]
    assert "70 % (alone 1 %)" in text and "absent accuracy" in text
    assert matplotlib.image.imread(folder / "figures" / "map.png").std() > 0.02


def test_no_map_of_one_axis_or_of_several_maps(folder: Path) -> None:
    plan = json.loads((folder / "sweep.json").read_text())
    one = [run for run in plan["runs"] if run["point"]["partitioner-settings"].endswith("8")]
    (folder / "sweep.json").write_text(json.dumps({"runs": one}))
    assert read_map(read_sweep_rows(folder)) == []
    for number, run in enumerate(plan["runs"]):
        run["point"]["clients"] = number // 4
    (folder / "sweep.json").write_text(json.dumps({"runs": plan["runs"]}))
    assert read_map(read_sweep_rows(folder)) == []
    write_sweep_report(folder)
    assert not (folder / "figures" / "map.png").exists()


def test_settings_that_it_does_not_know_have_no_expectation(folder: Path) -> None:
    for path in folder.glob("*/config.json"):
        path.write_text(json.dumps({**CONFIG, "image-size": 2}))
    cells = read_map(read_sweep_rows(folder))
    assert len(cells) == 4 and all(cell.expected is None for cell in cells)
    assert advice_error(cells) == []
    assert len(map_table(cells)) == 5


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ("minority_images = 3, clusters = 2", 3),
        ("clusters = 2", None),
        ("", None),
        ("minority_images =", None),
    ],
)
def test_the_number_is_read_from_the_settings(settings: str, found: int | None) -> None:
    assert minority_images(settings) == found
