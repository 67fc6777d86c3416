"""Gradient steps per second on a GPU against the loop of diffusers' unconditional image generation example.

The reference is that of `training_speed`, on the GPU and under bfloat16 autocast too. Ours is
`train_denoiser` as a run calls it: as it is (its kernels captured in a CUDA graph), and with
`compile = true`. Stretches of the two alternate. Capturing and compiling are not part of the ratios; how long
they took is given beside them. It is less where torch's cache has the kernels from before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

from fedpdiff.diffusion.batches import CleanImages
from fedpdiff.diffusion.chain import personal_chain
from fedpdiff.diffusion.cuda_graphs import Evaluated
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import REPORTS, TrainingSettings, train_denoiser
from fedpdiff.schedule import NoiseSchedule
from simulations.benchmarks import gpu
from simulations.benchmarks.table import Figure
from simulations.benchmarks.training_speed import (
    CLASSES,
    RATE,
    noise_images,
    picture_batches,
    reference,
)

NETWORK, SHAPE, BATCH = "ddpm", (3, 32, 32), 128
STRETCH, REFERENCE_STRETCH = 40, 15  # steps
GOAL = 3.0
PEAKS = {"H100": 989e12, "H200": 989e12}  # dense bfloat16 operations per second, NVIDIA's data sheets (SXM)


class _Enough(Exception):
    """Ends a training that was measured often enough."""


class _Alternating:
    """Progress of a training that after each report runs something else: seconds per step of both."""

    def __init__(self, repetitions: int, other: Callable[[], None]) -> None:
        self.own: list[float] = []
        self.others: list[float] = []
        self.start_up = 0.0
        self._repetitions, self._other = repetitions, other
        self._began = time.perf_counter()

    def __call__(self, step: int, steps: int, loss: float | None) -> None:
        """Note how long the steps since the last report took; their loss was read, so they are done."""
        took = (time.perf_counter() - self._began) / STRETCH
        if step == STRETCH:
            self.start_up = took * STRETCH
        else:
            self.own.append(took)
            self.others.append(gpu.seconds(self._other) / REFERENCE_STRETCH)
        if len(self.own) == self._repetitions:
            raise _Enough
        self._began = time.perf_counter()


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures."""
    torch.set_num_threads(1)  # as a run's processes
    images, what = noise_images(SHAPE), f"`{NETWORK}` at {' x '.join(map(str, SHAPE))}, batch {BATCH}"
    theirs = _network()
    loader = picture_batches(images, BATCH)
    reference(theirs, loader, REFERENCE_STRETCH, bfloat16=True)
    operations = _operations(theirs)
    chain, batches = personal_chain(NoiseSchedule("linear", 1000)), CleanImages(images, 0.0)
    for compiled in (False, True):
        settings = TrainingSettings(
            REPORTS * STRETCH, BATCH, RATE, 0, 0.9999, 1.0, bfloat16=True, compiled=compiled
        )
        progress = _Alternating(
            repetitions, lambda: reference(theirs, loader, REFERENCE_STRETCH, bfloat16=True)
        )
        with suppress(_Enough):
            train_denoiser(_network(), chain, batches, settings, torch.Generator().manual_seed(0), progress)
        how = f"{what}, {'compiled' if compiled else 'captured'}"
        ratios = tuple(other / own for own, other in zip(progress.own, progress.others, strict=True))
        yield Figure(
            f"gradient steps per second, {how}, against diffusers' example",
            ratios,
            "x",
            GOAL if compiled else None,
        )
        yield Figure(f"one gradient step, {how}", tuple(1e3 * seconds for seconds in progress.own), "ms")
        peak = next((peak for name, peak in PEAKS.items() if name in torch.cuda.get_device_name()), None)
        if peak:
            shares = tuple(100 * operations / seconds / peak for seconds in progress.own)
            yield Figure(f"model FLOP utilisation, {how}", shares, "%")
        yield Figure(f"before the first {STRETCH} steps were done, {how}", (progress.start_up,), "s")


def _network() -> UNet2DModel:
    return build_network(NETWORK, SHAPE, CLASSES, seed=0).cuda()


def _operations(network: UNet2DModel) -> int:
    """Count the floating-point operations of one step: convolutions, products, attention, both passes."""
    x_t = torch.randn(BATCH, *SHAPE, device="cuda")
    levels = torch.zeros(BATCH, dtype=torch.int64, device="cuda")
    with FlopCounterMode(display=False) as counter:
        Evaluated(network, bfloat16=True)(x_t, levels, levels).sum().backward()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops()
