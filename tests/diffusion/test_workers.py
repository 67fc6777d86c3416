"""One training in two processes: the weights of one process, resumed, watched, and ended with its parent."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fedpdiff.diffusion.batches import Uploads
from fedpdiff.diffusion.chain import global_chain
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.team import Team
from fedpdiff.diffusion.training import TrainingSettings, train_denoiser
from fedpdiff.diffusion.workers import train_on_workers
from fedpdiff.errors import DataError, RunError
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

SETTINGS = TrainingSettings(
    steps=6,
    batch_size=8,
    learning_rate=5e-3,
    warmup_steps=2,
    ema_decay=0.9,
    gradient_clip=1.0,
    checkpoint_every=3,
)
TOLERANCE = 1e-5  # of float32 sums in another order, after 6 steps; 3e-7 was seen
LONG = 120.0  # seconds

State = dict[str, torch.Tensor]


def train(
    workers: int,
    network: str,
    images: LabelledImages,
    settings: TrainingSettings = SETTINGS,
    progress: Any = None,
    checkpoint: Path | None = None,
) -> State:
    unet = build_network(network, (1, 4, 4), 2, seed=1)
    uploads = Uploads(images.images.float() / 255, images.labels)
    chain = global_chain(NoiseSchedule("linear", 1000), 50, "continued", "ambient")
    rest = (unet, chain, uploads, settings, torch.Generator().manual_seed(1), progress, checkpoint)
    trained = train_denoiser(*rest) if workers == 1 else train_on_workers(workers, *rest)
    assert trained is unet
    assert not trained.training
    return {name: tensor.clone() for name, tensor in trained.state_dict().items()}


def distance(network: str, one: State, other: State) -> float:
    """Return how far apart two states' outputs are at most.

    Not their weights: those on which the output does not depend, such as a bias that a normalisation takes
    away again, have gradients of rounding errors alone, of which Adam makes steps of full size.
    """
    generator, unet = torch.Generator().manual_seed(2), build_network(network, (1, 4, 4), 2, seed=1).eval()
    x_t, t, labels = torch.randn(8, 1, 4, 4, generator=generator), torch.arange(8) * 100, torch.arange(8) % 2
    outputs = []
    for state in (one, other):
        unet.load_state_dict(state)
        with torch.no_grad():
            outputs.append(unet(x_t, t, class_labels=labels).sample)
    return float((outputs[0] - outputs[1]).abs().max())


def workers_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if "spawn_main" in " ".join(process.cmdline())]


def children() -> list[psutil.Process]:
    return workers_of(psutil.Process().children())


class Interrupted(Exception):
    """Stands for a run that is stopped."""


@pytest.mark.slow
def test_two_workers_equal_one(stripes: LabelledImages, micro: str, tmp_path: Path) -> None:
    """Also when they were stopped and went on from a checkpoint. Half the batch alone gives other weights."""
    losses: dict[int, list[float]] = {1: [], 2: []}
    one = train(1, micro, stripes, progress=lambda _, __, loss: losses[1].append(loss))
    file = tmp_path / "checkpoint.safetensors"

    def stop_at_five(step: int, steps: int, loss: float) -> None:
        losses[2].append(loss)
        assert len(children()) == 2
        if step == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(2, micro, stripes, progress=stop_at_five, checkpoint=file)
    assert children() == []
    resumed: list[int] = []
    two = train(2, micro, stripes, progress=lambda step, *_: resumed.append(step), checkpoint=file)
    assert resumed == [4, 5, 6]
    assert children() == []
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [file.name]
    assert distance(micro, one, two) < TOLERANCE
    assert losses[2] == pytest.approx(losses[1][:5], rel=1e-5)
    half = train(1, micro, stripes, dataclasses.replace(SETTINGS, batch_size=4))
    assert distance(micro, one, half) > 20 * TOLERANCE


@pytest.mark.slow
def test_a_worker_that_is_killed(stripes: LabelledImages, micro: str) -> None:
    def kill_one(step: int, steps: int, loss: float) -> None:
        if step == 3:
            children()[1].kill()

    long = dataclasses.replace(SETTINGS, steps=50 * 3)  # reports every 3 steps
    with pytest.raises(RunError, match=r"worker \d of 2 .* was ended by SIGKILL.*last checkpoint"):
        train(2, micro, stripes, long, kill_one)
    assert children() == []


@pytest.mark.slow
def test_errors_of_workers_are_raised_here(stripes: LabelledImages, micro: str, tmp_path: Path) -> None:
    diverging = dataclasses.replace(SETTINGS, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(RunError, match=r"training diverged: the loss is .* lower learning-rate"):
        train(2, micro, stripes, diverging)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(b"broken")
    with pytest.raises(DataError, match="not a checkpoint of this network"):
        train(2, micro, stripes, checkpoint=file)
    assert children() == []


LONG_TRAINING = """
import sys
from pathlib import Path
import torch
from fedpdiff.diffusion.batches import Uploads
from fedpdiff.diffusion.chain import global_chain
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import TrainingSettings
from fedpdiff.diffusion.workers import train_on_workers
from fedpdiff.schedule import NoiseSchedule

if __name__ == "__main__":
    network = build_network(sys.argv[1], (1, 4, 4), 2, seed=1)
    chain = global_chain(NoiseSchedule("linear", 1000), 50, "continued", "ambient")
    uploads = Uploads(torch.zeros(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64))
    settings = TrainingSettings(5_000_000, 8, 1e-4, 0, 0.9, 1.0, checkpoint_every=1)
    generator = torch.Generator().manual_seed(1)
    train_on_workers(2, network, chain, uploads, settings, generator, checkpoint=Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(micro: str, tmp_path: Path) -> None:
    """A training of hours; its processes are gone soon after the one that started them."""
    (tmp_path / "script.py").write_text(LONG_TRAINING)
    file = tmp_path / "checkpoint.safetensors"
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py", micro, file])
    deadline = time.monotonic() + 5 * LONG
    while not file.exists():
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    started = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers_of(started)) == 2
    parent.kill()
    parent.wait(LONG)
    _, left = psutil.wait_procs(started, LONG)
    for process in left:
        process.kill()
    assert left == []


def test_each_process_takes_its_part() -> None:
    batch = torch.arange(12)
    for size in (1, 2, 3):
        parts = [Team(number, size).part(batch) for number in range(size)]
        assert torch.equal(torch.cat(parts), batch)
        assert {len(part) for part in parts} == {12 // size}
        assert [Team(number, size).leads for number in range(size)] == [True] + [False] * (size - 1)
