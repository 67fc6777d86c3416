from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from fedpdiff.config import RunConfig


@pytest.fixture
def run_config() -> Callable[..., RunConfig]:
    """Return ``run_config(image_size=16)``: the defaults with these changes."""

    def make(**changes: Any) -> RunConfig:
        if changes.get("partitioner", "majority-minority") != "majority-minority":
            changes.setdefault("partitioner_settings", "")
        changes.setdefault("min_clients", 1)
        return RunConfig.parse({key.replace("_", "-"): value for key, value in changes.items()})

    return make


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., str]:
    """Return ``image_folder("site", cat=3, dog=2)``: a new folder with so many grey images per class."""

    def make(name: str, **counts: int) -> str:
        for label, (kind, count) in enumerate(counts.items()):
            (tmp_path / name / kind).mkdir(parents=True)
            for number in range(count):
                image = Image.new("L", (10, 10), 20 * label + number)
                image.save(tmp_path / name / kind / f"{number:03}.png")
        return str(tmp_path / name)

    return make


@pytest.fixture
def rgb_parquet(tmp_path: Path) -> str:
    """Return a folder in the layout of CIFAR-10's hub copy: train and test parquet, columns img and label."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "rgb"
    folder.mkdir()
    features = datasets.Features(
        img=datasets.Image(),
        label=datasets.ClassLabel(names=["plane", "car", "bird"]),
        camera=datasets.Value("string"),
    )
    for split, count in (("train", 90), ("test", 12)):
        rows = {
            "img": [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)],
            "label": [number % 3 for number in range(count)],
            "camera": [f"camera {number % 4}" for number in range(count)],
        }
        data = datasets.Dataset.from_dict(rows, features=features)
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder)
