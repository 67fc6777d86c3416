"""Choosing a budget for a data set: public facts, numbers of images, private among public ones, runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fedpdiff.config import RunConfig
from fedpdiff.data.public import load_all_private, load_public
from fedpdiff.errors import ConfigError, RunError
from fedpdiff.federation.agreement import hand_off_level, propose
from fedpdiff.federation.frontier import choose
from fedpdiff.results import ClientResults, GroupScores, Results

Folder = Callable[..., Path]


@pytest.fixture
def digit_folder(tmp_path: Path) -> Folder:
    """Return ``digit_folder("site", range(30))``: an image folder of these of scikit-learn's digits."""
    digits = load_digits()

    def make(name: str, rows: range, change: int = 0) -> Path:
        for row in rows:
            folder = tmp_path / name / str(digits.target[row])
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[row] * 15 + change).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{row:04}.png")
        return tmp_path / name

    return make


@pytest.fixture
def finished(tmp_path: Path) -> Folder:
    """Return ``finished("run", epsilon=30.0)``: a finished run of the default settings with these changes."""

    def make(name: str, pfdm: tuple[float | None, ...] = (2.0, 4.0), **changes: Any) -> Path:
        config = RunConfig.parse({key.replace("_", "-"): value for key, value in changes.items()})
        clients = [
            ClientResults(
                client=number,
                name=f"client-{number}",
                groups={"minority": {"local": GroupScores(frechet=5.0), "pfdm": GroupScores(frechet=value)}},
            )
            for number, value in enumerate(pfdm)
        ]
        none: list[float | None] = [None] * len(pfdm)
        Results(
            seed=config.seed,
            release_noise="secure",
            privacy={"epsilon": 29.9, "delta": 1e-5},
            feature_space="classifier:12345678",
            class_names=[str(number) for number in range(10)],
            clients=clients,
            gap_closed=none,
            gap_closed_mean=None,
            gap_spread=none,
            bytes_up=[],
            bytes_down=[],
            seconds={},
        ).write(tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(config.flat()))
        return tmp_path / name

    return make


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    return choose(RunConfig(), [1, 10, 100])


def test_centre_and_clip_are_those_of_a_run(digits: dict[str, Any]) -> None:
    public = load_public(RunConfig())
    agreement = propose(RunConfig.parse({"epsilon": 10.0}), public)
    row = digits["rows"][1]
    assert digits["clip"] == agreement.mechanism.clip
    assert digits["public_images"] == len(public)
    assert (row["t0"], row["alpha_bar"]) == (agreement.mechanism.t0, agreement.mechanism.alpha_bar)
    norms = np.linalg.norm((public.pixels().numpy() - agreement.centre).reshape(len(public), -1), axis=1)
    power = np.mean(np.minimum(norms, digits["clip"]) ** 2)
    assert row["signal_to_noise"] == pytest.approx(row["alpha_bar"] * power / (1 - row["alpha_bar"]), 1e-5)
    assert digits["clipped"] == pytest.approx(0.5, abs=0.01)  # C is the median norm


def test_images_are_those_of_the_largest_client(digits: dict[str, Any]) -> None:
    total = len(load_all_private(RunConfig()))
    assert total / 2 <= digits["images"] < total
    assert digits["cautions"] == []
    many = choose(RunConfig(), [10], images=20_000)
    assert many["images"] == 20_000
    assert "delta 1e-05 is above 1 / (10 x 20,000 images of one client)" in many["cautions"][0]


def test_a_budget_that_a_run_would_refuse_is_noted(digits: dict[str, Any]) -> None:
    assert [row["notes"] for row in digits["rows"]] == [[], [], []]
    (row,) = choose(RunConfig.parse({"global-base": "none"}), [1])["rows"]
    assert "a run would be refused: hand-off-signal = 0.5" in row["notes"][0]
    with pytest.raises(ConfigError, match="asks for t0 = 1000, the last level"):
        hand_off_level(RunConfig(), 1000)


def test_private_images_among_the_public_ones_are_found(digit_folder: Folder) -> None:
    data = digit_folder("data", range(300))
    config = RunConfig.parse({"data": str(data), "max-images": 100, "public-fraction": 0.5})
    settings = {"partitioner": "iid", "min-clients": 1, "clients": 1}
    config = RunConfig.parse(config.flat() | settings)
    apart = choose(config, [10], site=str(digit_folder("other", range(300, 350))))
    assert "none of the 105 public images" in apart["checked"]
    assert apart["images"] == 35  # of the site: 30 % of its images are held out
    assert [text.split(":")[0] for text in apart["cautions"]] == ["Only you can know"]
    public = {image.tobytes() for image in load_public(config).images.numpy()}
    site = digit_folder("site", range(100, 200), change=3)
    shared = sum((digit * 15).astype(np.uint8).tobytes() in public for digit in load_digits().images[100:200])
    assert 20 < shared < 50
    mixed = choose(config, [10], site=str(site))
    assert mixed["checked"] is None
    assert mixed["cautions"][-1].startswith(
        f"Warning: {shared} of the 105 public images are among the images"
    )


def test_without_public_images(digits: dict[str, Any]) -> None:
    settings = {"public-fraction": 0.0, "centre": "none", "clip-rule": "fixed"}
    found = choose(RunConfig.parse(settings), [10])
    assert (found["public_images"], found["clipped"], found["clip"]) == (0, None, 10.0)
    assert found["rows"][0]["t0"] == 675
    assert found["signal_power"] == 100  # the most there can be


# -- runs ----------------------------------------------------------------------------------------------------


def test_runs_stand_at_the_budget_they_were_run_with(finished: Folder) -> None:
    folders = [finished("first", epsilon=30.0), finished("second", epsilon=30.0, seed=2, pfdm=(1.0, 3.0))]
    found = choose(RunConfig(), [10], runs=[*folders, finished("other", t0=380, epsilon=0.0)])
    assert [row["budget"] for row in found["rows"]] == [10, 29.9, 30]
    assert [len(row["runs"]) for row in found["rows"]] == [0, 1, 2]
    assert [run["minority"] for run in found["rows"][2]["runs"]] == [
        {"local": 5.0, "pfdm": 3.0},
        {"local": 5.0, "pfdm": 2.0},
    ]


def test_a_client_without_a_distance_leaves_no_mean(finished: Folder) -> None:
    (row,) = choose(RunConfig(), [50], runs=[finished("run", epsilon=50.0, pfdm=(2.0, None))])["rows"]
    assert row["runs"][0]["minority"] == {"local": 5.0, "pfdm": None}


@pytest.mark.parametrize(
    "changes",
    [{"delta": 1e-6}, {"image_size": 16}, {"centre": "none"}, {"clients": 3}, {"schedule": "cosine"}],
)
def test_runs_with_other_settings_are_refused(changes: dict[str, Any], finished: Folder) -> None:
    folder = finished("run", **changes)
    key = next(iter(changes)).replace("_", "-")
    with pytest.raises(RunError, match=rf"other settings \({key} = .* there"):
        choose(RunConfig(), [10], runs=[folder])


def test_training_may_differ(finished: Folder) -> None:
    folder = finished("run", personal_steps=5, seed=9, device="cpu")
    assert len(choose(RunConfig(), [10], runs=[folder])["rows"]) == 2


def test_folders_without_a_run(finished: Folder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no results\.json"):
        choose(RunConfig(), [10], runs=[tmp_path / "nothing"])
    folder = finished("run")
    (folder / "config.json").unlink()
    with pytest.raises(RunError, match=r"config\.json cannot be read as settings"):
        choose(RunConfig(), [10], runs=[folder])
