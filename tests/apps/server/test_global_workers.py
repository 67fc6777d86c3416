"""A whole run whose global network is trained by two processes, from uploads that none of them holds."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.events import read_events
from fedpdiff.federation import networks
from fedpdiff.federation.pooled import SpooledImages

TOLERANCE = 1e-5  # of float32 sums in another order, in outputs after two steps


@pytest.mark.slow
def test_two_workers_train_what_one_trains(
    fake_grid: Any, settings: Any, simulated_nodes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    no_report: None,
) -> None:  # fmt: skip
    handed: list[Any] = []
    train = networks.train_on_workers

    def spy(workers: int, *task: Any, **named: Any) -> Any:
        handed.append((workers, task[2]))
        return train(workers, *task, **named)

    monkeypatch.setattr(networks, "train_on_workers", spy)
    common = {"release-noise": "seeded", "centralised": False, "oracle": False, "personal-steps": 1}
    for workers in (1, 2):
        changes = common | {"global-workers": workers, "run-dir": str(tmp_path / f"{workers}")}
        fake_grid(settings(**changes), simulated_nodes(2)).run_app()
    ((workers, batches),) = handed
    assert workers == 2
    assert isinstance(batches._values, SpooledImages)
    assert len(pickle.dumps(batches._values)) < batches._values.nbytes / 5  # paths and labels
    x_t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    one, two = (
        Denoiser.from_pretrained(tmp_path / run / "server" / "global").network(
            x_t, torch.tensor([600, 700, 800, 900]), class_labels=torch.arange(4)
        )
        for run in ("1", "2")
    )
    assert float((one.sample - two.sample).abs().max()) < TOLERANCE
    steps = [
        event["done"]
        for event in read_events(tmp_path / "2" / "events")
        if event["phase"] == "global training" and event["state"] == "progress"
    ]
    assert steps == [1, 2]
