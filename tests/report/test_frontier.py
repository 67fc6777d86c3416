"""Table and figure of the frontier, from its numbers alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from fedpdiff.privacy.frontier import Trial, curve, frontier
from fedpdiff.report.frontier_figure import draw_frontier
from fedpdiff.report.frontier_table import frontier_table
from fedpdiff.schedule import NoiseSchedule

TRIAL = Trial(NoiseSchedule("linear", 1000).alpha_bar, "linear", 4.3, 1e-5, 16.8)
RUN = {"folder": "r", "budget": 10, "seed": 1, "feature_space": "classifier:1"}


@pytest.fixture
def found() -> dict[str, Any]:
    rows = [row | {"runs": [], "notes": []} for row in frontier(TRIAL, [0.01, 3, 10, 100])]
    rows[0]["notes"] = ["not reached: because"]
    return {
        **{"unit": "one image", "adjacency": "replace-one", "data": "digits", "image_shape": [1, 8, 8]},
        **{"centre": "public-mean", "clip_rule": "public-median", "clip": 4.3, "clipped": 0.5},
        **{"signal_power": 16.8, "public_images": 252, "images": 503, "delta": 1e-5},
        **{"schedule": "linear", "diffusion_steps": 1000, "rows": rows, "curve": curve(TRIAL, 2, 200)},
        **{"cautions": ["Warning: something"], "checked": None},
    }


def with_runs(found: dict[str, Any], *distances: tuple[float | None, float | None]) -> dict[str, Any]:
    changed = copy.deepcopy(found)
    changed["rows"][2]["runs"] = [
        RUN | {"minority": {"local": local, "pfdm": pfdm}} for local, pfdm in distances
    ]
    return changed


def cells(text: str, budget: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [budget])


def test_the_table(found: dict[str, Any]) -> None:
    text = frontier_table(found)
    row = found["rows"][2]
    assert cells(text, "10")[:3] == ["10", f"{row['epsilon']:.3f}", str(row["t0"])]
    assert cells(text, "0.01") == ["0.01", "–"]
    assert cells(text, "100")[1] == "!"
    assert "an epsilon above 20 for one image" in text
    assert "budget 0.01: not reached: because" in text
    assert "Warning: something" in text
    assert "Frechet" not in text
    assert max(len(line) for line in text.splitlines()) <= 110


def test_no_warning_of_an_empty_guarantee_without_one(found: dict[str, Any]) -> None:
    found["rows"].pop()
    assert "above 20" not in frontier_table(found)


def test_runs_in_the_table(found: dict[str, Any]) -> None:
    text = frontier_table(with_runs(found, (4.0, 3.0), (6.0, 2.0)))
    assert cells(text, "10")[-2:] == ["5.00", "2.50"]
    assert cells(text, "3")[-2:] == ["–", "–"]
    assert "Frechet distance of the minority classes" in text
    assert "different feature spaces" not in text
    mixed = with_runs(found, (4.0, None), (6.0, 2.0))
    mixed["rows"][2]["runs"][0]["feature_space"] = "classifier:2"
    text = frontier_table(mixed)
    assert cells(text, "10")[-2:] == ["5.00", "2.00"]
    assert "different feature spaces" in text


@pytest.mark.parametrize(
    ("distances", "panels"), [([], 2), ([(4.0, 3.0)], 3), ([(None, 3.0)], 3), ([(None, None)], 2)]
)
def test_the_figure_has_a_panel_for_measured_distances(
    distances: list[Any], panels: int, found: dict[str, Any], tmp_path: Path
) -> None:
    image = matplotlib.image.imread(draw_frontier(with_runs(found, *distances), tmp_path / "figure.png"))
    assert image.shape[1] == panels * 750
    assert image.std() > 0.05
