"""128 small clients on one GPU against one client with all their images and as many steps in total.

Shared: as in a simulation, as many processes as there are CPUs each train one client after another on the
GPU. At once: `stacked` of `many_small_clients`, all networks in one process with stacked weights. One client:
the rate of `train_denoiser` with as many steps. Starting the processes is left out; building networks,
capturing and what else a client costs is not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import torch
import torch.multiprocessing as multiprocessing
from diffusers import UNet2DModel

from fedpdiff.diffusion.batches import CleanImages
from fedpdiff.diffusion.chain import personal_chain
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import TrainingSettings, train_denoiser
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages
from simulations.benchmarks import gpu
from simulations.benchmarks.many_small_clients import stacked
from simulations.benchmarks.table import Figure

CLIENTS, IMAGES, CLASSES = 128, 400, 10
NETWORK, SHAPE, BATCH, STEPS = "tiny", (1, 8, 8), 64, 60  # steps of each client
FEW = 10  # steps of the stacked networks that are measured
GOAL = 1.5
LONGEST = 600.0  # seconds until a process that does not come is taken for dead


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures."""
    torch.set_num_threads(1)
    what = (
        f"{CLIENTS} clients of {IMAGES} images, `{NETWORK}` at {' x '.join(map(str, SHAPE))}, batch {BATCH}"
    )
    _train(_network(0), _images(0), STEPS)
    alone = [_alone() for _ in range(repetitions)]
    yield Figure(
        f"one gradient step of one client, {what}", tuple(s / CLIENTS / STEPS * 1e3 for s in alone), "ms"
    )
    at_once = _at_once(repetitions)
    ratios = tuple(STEPS / FEW * own / other for own, other in zip(at_once, alone, strict=True))
    yield Figure(f"{what}, at once, against one client with as many steps", ratios, "x", GOAL, "at most")
    processes = min(CLIENTS, os.cpu_count() or 1)
    ratios = tuple(own / other for own, other in zip(_shared(processes, repetitions), alone, strict=True))
    yield Figure(
        f"{what}, {processes} at a time, against one client with as many steps", ratios, "x", GOAL, "at most"
    )


def _alone() -> float:
    """Return how long all clients' steps take one client: from two numbers of them, so as to capture once."""
    few = gpu.seconds(lambda: _train(_network(0), _images(0), STEPS))
    more = gpu.seconds(lambda: _train(_network(0), _images(0), 5 * STEPS))
    return few + (more - few) / 4 * (CLIENTS - 1)


def _at_once(repetitions: int) -> list[float]:
    """Return how long a few steps of all clients take in one process, for each repetition."""
    networks = [_network(number) for number in range(CLIENTS)]
    data = [_images(number) for number in range(CLIENTS)]
    stacked(networks, data, _settings(1))
    return [gpu.seconds(lambda: stacked(networks, data, _settings(FEW))) for _ in range(repetitions)]


def _shared(processes: int, repetitions: int) -> list[float]:
    """Return how long so many processes take together to train all clients, for each repetition."""
    context = multiprocessing.get_context("spawn")
    meeting = context.Barrier(processes + 1, timeout=LONGEST)
    crew = [
        context.Process(target=_work, args=(number, processes, repetitions, meeting), daemon=True)
        for number in range(processes)
    ]
    for process in crew:
        process.start()
    found = []
    for _ in range(repetitions):
        meeting.wait()
        began = time.perf_counter()
        meeting.wait()
        found.append(time.perf_counter() - began)
    for process in crew:
        process.join()
    return found


def _work(number: int, processes: int, repetitions: int, meeting: multiprocessing.Barrier) -> None:
    """Train every client whose turn it is, when all are ready."""
    torch.set_num_threads(1)
    _train(_network(0), _images(0), STEPS)
    for _ in range(repetitions):
        meeting.wait()
        for client in range(number, CLIENTS, processes):
            _train(_network(client), _images(client), STEPS)
        torch.cuda.synchronize()
        meeting.wait()


def _network(seed: int) -> UNet2DModel:
    return build_network(NETWORK, SHAPE, CLASSES, seed).cuda()


def _images(seed: int) -> CleanImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (IMAGES, *SHAPE), generator=generator, dtype=torch.uint8)
    return CleanImages(LabelledImages(pixels, torch.arange(IMAGES) % CLASSES), 1.0)


def _settings(steps: int) -> TrainingSettings:
    return TrainingSettings(steps, BATCH, 1e-3, 0, 0.999, 1.0)


def _train(network: UNet2DModel, images: CleanImages, steps: int) -> None:
    chain = personal_chain(NoiseSchedule("linear", 1000))
    train_denoiser(network, chain, images, _settings(steps), torch.Generator().manual_seed(0))
