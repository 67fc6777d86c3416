"""One training on several processes of this machine: on a GPU each, or on its CPUs.

The processes are torch.distributed's (NCCL between GPUs, gloo between CPUs) over the loopback interface. They
end with the process that started them, however that ends.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import UNet2DModel

from fedpdiff.diffusion.batches import Batches
from fedpdiff.diffusion.chain import Chain
from fedpdiff.diffusion.linear_gaussian import LinearGaussian
from fedpdiff.diffusion.team import Team
from fedpdiff.diffusion.training import Progress, TrainingSettings, train_denoiser
from fedpdiff.errors import ConfigError, FedpdiffError, RunError

_END_SECONDS = 10.0


def train_on_workers(
    workers: int,
    network: UNet2DModel,
    chain: Chain,
    batches: Batches,
    settings: TrainingSettings,
    generator: torch.Generator,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    base: LinearGaussian | None = None,
) -> UNet2DModel:
    """Do what :func:`~fedpdiff.diffusion.training.train_denoiser` does, in so many processes.

    The weights are those of one process up to the order in which float32 numbers are added. Each process
    draws whole batches, so ``batches`` should read its images from the disk where they are many.

    Parameters
    ----------
    workers
        Number of processes, at least 2; divides the batch size. With CUDA each takes one GPU, from the first.

    Raises
    ------
    ConfigError
        When there are fewer GPUs than workers.
    DataError
        When the checkpoint is broken.
    RunError
        When a checkpoint cannot be written, the loss is no longer finite, or a worker dies.
    torch.OutOfMemoryError
        When a worker's GPU is too small.
    """
    device = network.device
    if device.type == "cuda" and torch.cuda.device_count() < workers:
        raise ConfigError(
            f"global-workers = {workers}: each takes a GPU, and torch sees {torch.cuda.device_count()} here; "
            "lower it"
        )
    start = _Start(
        network=copy.deepcopy(network).cpu(),
        chain=chain,
        batches=batches,
        settings=settings,
        seed=generator.initial_seed(),
        random_state=generator.get_state(),
        checkpoint=checkpoint,
        base=copy.deepcopy(base).cpu() if base is not None else None,
        device=device.type,
        threads=torch.get_num_threads(),
    )
    with _started(workers, start) as crew:
        weights = _watch(crew, progress)
    network.load_state_dict(safetensors.torch.load(weights))
    return network.eval()


@dataclass(frozen=True)
class _Start:
    """What every worker starts from."""

    network: UNet2DModel
    chain: Chain
    batches: Batches
    settings: TrainingSettings
    seed: int
    random_state: torch.Tensor
    checkpoint: Path | None
    base: LinearGaussian | None
    device: str
    threads: int


# -- in the process that starts them ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Worker:
    process: SpawnProcess
    messages: Connection


@contextmanager
def _started(workers: int, start: _Start) -> Iterator[list[_Worker]]:
    """Start the workers; none is left when the block ends."""
    context = multiprocessing.get_context("spawn")
    # Pickled by value, here: multiprocessing would put tensors into /dev/shm, which is small in a container.
    packed = pickle.dumps(start)
    crew: list[_Worker] = []
    with tempfile.TemporaryDirectory(prefix="fedpdiff-") as folder:
        try:
            for number in range(workers):
                messages, theirs = context.Pipe()
                arguments = (Team(number, workers), f"{folder}/meeting", theirs)
                process = context.Process(target=_work, args=arguments, daemon=True)
                process.start()
                theirs.close()
                crew.append(_Worker(process, messages))
            for worker in crew:
                with suppress(OSError):  # it is dead: whoever watches says so
                    worker.messages.send_bytes(packed)
            yield crew
            for worker in crew:
                worker.process.join(_END_SECONDS)
        finally:
            for end in (SpawnProcess.terminate, SpawnProcess.kill):
                for worker in crew:
                    end(worker.process)
                for worker in crew:
                    worker.process.join(_END_SECONDS)


def _watch(crew: Sequence[_Worker], progress: Progress | None) -> bytes:
    """Pass on what the workers report, until one sends the trained weights; returns these."""
    while True:
        running = [worker for worker in crew if worker.process.exitcode is None]
        wait([w.process.sentinel for w in running] + [w.messages for w in running])
        failed = [number for number, worker in enumerate(crew) if worker.process.exitcode]
        for message in _messages(crew):
            if isinstance(message, bytes):
                return message
            if isinstance(message, Exception):
                raise message
            if progress is not None:
                progress(*message)
        if failed or not running:
            raise RunError(_how_they_died(crew, failed or [0]))


def _messages(crew: Sequence[_Worker]) -> Iterator[Any]:
    for worker in crew:
        try:
            while worker.messages.poll():
                yield worker.messages.recv()
        except (EOFError, OSError):  # it has ended, perhaps in the middle of a message
            continue


def _how_they_died(crew: Sequence[_Worker], failed: list[int]) -> str:
    """Say what became of the first to die: one that a signal ended, which the others then missed."""
    number = min(failed, key=lambda number: crew[number].process.exitcode or 0)
    status = crew[number].process.exitcode or 0
    how = f"ended with exit status {status}; the log above says why"
    if status < 0:
        how = f"was ended by {signal.Signals(-status).name}; most often memory ran out"
    return (
        f"worker {number + 1} of {len(crew)} of the global training {how}. Started again, the run goes on "
        "from the last checkpoint"
    )


# -- in a worker ------------------------------------------------------------------------------------------


def _work(team: Team, meeting: str, messages: Connection) -> None:
    """Train; report progress, and at the end the weights or the error."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        network = _train(team, pickle.loads(messages.recv_bytes()), meeting, messages)
        if team.leads:
            messages.send(safetensors.torch.save(network.state_dict()))
    except (FedpdiffError, torch.OutOfMemoryError) as error:
        messages.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train(team: Team, start: _Start, meeting: str, messages: Connection) -> UNet2DModel:
    torch.set_num_threads(start.threads)
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    device = torch.device("cpu")
    if start.device == "cuda":
        device = torch.device("cuda", team.number)
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting}",
        rank=team.number,
        world_size=team.size,
    )
    generator = torch.Generator().manual_seed(start.seed)
    generator.set_state(start.random_state)
    network = train_denoiser(
        start.network.to(device),
        start.chain,
        start.batches,
        start.settings,
        generator,
        (lambda *report: messages.send(report)) if team.leads else None,
        start.checkpoint,
        base=start.base.to(device) if start.base is not None else None,
        team=team,
    )
    torch.distributed.destroy_process_group()
    return network
