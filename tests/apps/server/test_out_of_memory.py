"""A client that runs out of the GPU's memory: tried again alone and named, or left out with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpdiff.errors import RunError
from fedpdiff.events import OUT_OF_MEMORY, ran_out_of_memory, read_events
from fedpdiff.federation import networks
from fedpdiff.methods import base
from fedpdiff.results import Results

Training = Callable[..., Any]


class Failing:
    """The training, which runs out of memory in its given calls, counted from 1."""

    def __init__(self, training: Training, *calls: int) -> None:
        self.training, self.calls, self.count = training, calls, 0

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.count += 1
        if self.count in self.calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.training(*arguments, **keywords)


def test_a_client_is_tried_again_alone_and_named(
    fake_grid: Any, settings: Any, simulated_nodes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean = fake_grid(settings(**{"run-dir": str(tmp_path / "clean")}), simulated_nodes(2))
    clean.run_app()
    training = Failing(networks.train_denoiser, 2)
    monkeypatch.setattr(networks, "train_denoiser", training)
    run = fake_grid(settings(), simulated_nodes(2))
    results: Results = run.run_app()
    assert [client.name for client in results.clients] == ["client-0", "client-1"]
    assert results.refused == []
    assert ran_out_of_memory(read_events(tmp_path / "run" / "events")) == ["client-1"]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Ran out of the GPU’s memory" in page and "client-1." in page
    assert "Ran out of" not in (tmp_path / "clean" / "report.html").read_text("utf-8")
    again, undisturbed = (
        [path.read_bytes() for path in sorted((tmp_path / folder / "client-1").rglob("*.safetensors"))]
        for folder in ("run", "clean")
    )
    assert again == undisturbed != []


def test_a_client_that_fails_twice_is_left_out(
    fake_grid: Any, settings: Any, simulated_nodes: Any, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    monkeypatch.setattr(networks, "train_denoiser", Failing(networks.train_denoiser, 2, 3))
    results = fake_grid(settings(clients=3), simulated_nodes(3)).run_app()
    assert [client.name for client in results.clients] == ["client-0", "client-2"]
    (left_out,) = results.refused
    assert left_out.site == "client-1"
    for part in ('network = "tiny"', "batch-size = 8", 'precision = "auto"', "no other client"):
        assert part in left_out.reason
    assert "CUDA" not in left_out.reason


def test_a_round_is_tried_again(
    fake_grid: Any, settings: Any, simulated_nodes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(base, "train_denoiser", Failing(base.train_denoiser, 3))
    run = fake_grid(settings(method="fedavg", rounds=2, centralised=False), simulated_nodes(2))
    assert run.run_app().refused == []
    events = read_events(tmp_path / "run" / "events")
    assert ran_out_of_memory(events) == ["client-0"]
    assert [event["state"] for event in events if event["phase"] == OUT_OF_MEMORY] == ["start", "end"]


def test_the_coordinator_says_what_did_not_fit(
    fake_grid: Any, settings: Any, simulated_nodes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(networks.Trainer, "global_half", full)
    with pytest.raises(RunError, match=r'at the coordinator: network = "tiny" at batch-size = 8'):
        fake_grid(settings(), simulated_nodes(2)).run_app()
    assert "RunError: the memory of the GPU" in (tmp_path / "run" / "error.txt").read_text()
