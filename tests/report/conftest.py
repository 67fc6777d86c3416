"""A run folder with real digits as samples, without any training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedpdiff.results import ClientResults, GroupScores, Results, gap_closed, mean_gap

DISTANCES = {"local": 6.2, "pfdm": 4.1, "oracle": 3.4, "centralised": 1.9, "real": 0.87}
NOISE = {"real": 0, "local": 40, "global": 90, "pfdm": 15, "oracle": 8, "centralised": 5}


def scores(factor: float) -> dict[str, GroupScores]:
    return {
        name: GroupScores(frechet=factor * value, precision=0.8, recall=0.5, accuracy=0.94)
        for name, value in DISTANCES.items()
    }


def make_results(seed: int = 1, name: str = "client", epsilon: float = 50.0, pfdm: float = 4.1) -> Results:
    halves = ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    clients = []
    for k in range(2):
        minority = {**scores(1 + 0.1 * k + 0.02 * seed), "pfdm": GroupScores(frechet=pfdm, accuracy=0.9)}
        clients.append(
            ClientResults(
                client=k,
                name=f"{name}-{k}",
                classes={"majority": halves[k], "minority": halves[1 - k]},
                groups={"majority": scores(0.5), "minority": minority},
            )
        )
    gaps = [gap_closed(client, 0.8) for client in clients]
    return Results(
        seed=seed,
        release_noise="secure",
        privacy={
            "epsilon": epsilon,
            "epsilon_theorem_5_1": epsilon * 1.14,
            "delta": 1e-5,
            "mu": 6.1,
            "t0": 432,
            "alpha_bar": 0.151,
            "clip": 9.13,
            "schedule": "linear",
        },
        feature_space="classifier:83fbbc53",
        class_names=[str(k) for k in range(10)],
        clients=clients,
        gap_closed=gaps,
        gap_closed_mean=mean_gap(gaps),
        gap_spread=[0.8, 0.8],
        bytes_up=[26_112, 26_432],
        bytes_down=[742_912, 742_912],
        seconds={"upload": 2.4, "training": 131.0, "sampling": 38.0},
        participants=[f"{name}-0", f"{name}-1"],
    )


def write_samples(folder: Path) -> None:
    digits = load_digits()
    generator = np.random.default_rng(0)
    for name, noise in NOISE.items():
        rows = np.concatenate([np.flatnonzero(digits.target == k)[:12] for k in range(10)])
        images = digits.images[rows][:, None] * 255 / 16
        noisy = (images + noise * generator.normal(size=images.shape)).clip(0, 255).astype(np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{name}.npz", images=noisy, labels=digits.target[rows].astype(np.int64))


def write_events(folder: Path) -> None:
    folder.mkdir(parents=True)
    lines: dict[str, list[dict]] = {"server": [], "client-0": [], "client-1": []}

    def phase(who: str, name: str, begin: float, end: float, loss: bool) -> None:
        common = {"who": who, "phase": name, "total": 700}
        lines[who].append({**common, "time": begin, "state": "start", "done": 0, "loss": None})
        for step in range(50, 701, 50):
            value = 0.02 + 0.5 * np.exp(-step / 150) if loss else None
            time = begin + (end - begin) * step / 700
            lines[who].append({**common, "time": time, "state": "progress", "done": step, "loss": value})
        lines[who].append({**common, "time": end, "state": "end", "done": 700, "loss": None})

    phase("server", "feature network", 0, 6, loss=False)
    phase("server", "global training", 9, 88, loss=True)
    phase("server", "centralised training", 95, 170, loss=True)
    for k in range(2):
        phase(f"client-{k}", "release", 6, 8 + k, loss=False)
        phase(f"client-{k}", "personal training", 10, 80 + 9 * k, loss=True)
        phase(f"client-{k}", "sampling", 171, 205 + 4 * k, loss=False)
    for who, events in lines.items():
        text = "".join(json.dumps(event) + "\n" for event in events)
        (folder / f"{who}.jsonl").write_text(text + '{"half a line')


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a complete run folder and returns it."""

    def build(folder: str = "run", config: dict | None = None, **settings: object) -> Path:
        root = tmp_path / folder
        results = make_results(**settings)
        results.write(root)
        (root / "config.json").write_text(
            json.dumps({"seed": results.seed, "epsilon": 50.0, "diffusion-steps": 1000, **(config or {})})
        )
        (root / "environment.json").write_text(
            json.dumps({"python": "3.11", "packages": {"torch": "2.15.0"}})
        )
        write_events(root / "events")
        for k in range(2):
            write_samples(root / f"client-{k}" / "samples")
        return root

    return build
