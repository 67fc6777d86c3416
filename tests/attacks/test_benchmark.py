"""The benchmark command on a small data set of digits; its figures for MNIST and CIFAR-10 are committed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "simulations/benchmarks/upload_attacks.py"
COMMITTED = ROOT / "simulations/results/upload_attacks/upload_attacks.json"


@pytest.mark.slow
def test_the_command_attacks_a_folder_of_images(tmp_path: Path) -> None:
    digits = load_digits()
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[str(i) for i in range(10)])
    )
    rows = {
        "image": [Image.fromarray((15 * image).astype(np.uint8)) for image in digits.images],
        "label": digits.target.tolist(),
    }
    folder = tmp_path / "digits"
    folder.mkdir()
    datasets.Dataset.from_dict(rows, features).to_parquet(folder / "train-00000-of-00001.parquet")
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--mnist", folder, "--out", out, "--draws", "2", "--members", "150",
         "--public", "500", "--levels", "300", "690", "--no-attributes"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mnist: ours" in done.stdout and "re-id cap of 1000" in done.stdout
    low, high = json.loads((out / "upload_attacks.json").read_text())["measured"]["mnist"].values()
    assert low["re-identified"]["mean"] > 0.5 and "z" not in low["re-identified"]  # another setting
    assert high["re-identified"]["mean"] < high["cap"] + 0.05
    assert low["recovery"]["mean"] < 0.95 < high["recovery"]["mean"]
    assert {path.name for path in out.iterdir()} == {"upload_attacks.json", "upload_attacks.png", "mnist.png"}


def test_the_committed_figures_agree_with_the_reference_and_keep_below_the_caps() -> None:
    result = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert set(result["measured"]) == {"mnist", "cifar10"}
    distances = []
    for name, levels in result["measured"].items():
        assert list(levels) == [str(level) for level in (300, 400, 500, 600, 690, 800, 900)]
        for row in levels.values():
            distances += [row[metric]["z"] for metric in row if isinstance(row[metric], dict)]
            for metric, cap in (("re-identified", "cap"), ("in class", "in-class cap")):
                runs = len(row[metric]["draws"])
                error = row[metric]["error_of_one_draw"] / runs**0.5
                assert row[metric]["mean"] < row[cap] + 3 * error, name
    # 56 comparisons: none beyond 3.5 standard errors, and no more beyond 2 than luck explains (0.1 %: 9)
    assert max(abs(z) for z in distances) < 3.5
    assert sum(abs(z) > 2 for z in distances) < 9
