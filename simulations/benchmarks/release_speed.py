"""How fast the exact noise is drawn, a release made, coded for the wire and read again.

CPU seconds of one thread, so that other work on the machine disturbs little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from fedpdiff.privacy.gaussian_noise import SecureNoise, rounded_gaussian
from fedpdiff.privacy.mechanism import release_integers
from fedpdiff.privacy.wire import decode, encode
from simulations.benchmarks.table import Figure

SIGMA = 4000.0  # grid steps: about that of t0 = 690 of the linear schedule, where the grid's step is 1/4096
VALUES = 1 << 23
IMAGES = (4000, 3, 32, 32)
CIFAR = (50_000, 3, 32, 32)
ALPHA_BAR, CLIP = 0.00846, 10.0  # of t0 = 690
MILLION = 1e6


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds that a piece of work takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures."""
    torch.set_num_threads(1)
    rounded_gaussian(SIGMA, 1, SecureNoise())  # builds its table
    ours, theirs = [], []
    for _ in range(repetitions):
        ours.append(cpu_seconds(lambda: rounded_gaussian(SIGMA, VALUES, SecureNoise())))
        theirs.append(cpu_seconds(lambda: torch.randn(VALUES)))
    yield Figure(
        "exact noise from the operating system's randomness, one core",
        tuple(VALUES / MILLION / seconds for seconds in ours),
        "million values/s",
        30,
    )
    yield Figure(
        "the same against torch.randn, which is neither exact nor cryptographic",
        tuple(other / own for own, other in zip(ours, theirs, strict=True)),
        "x",
    )
    pixels = np.random.default_rng(0).integers(0, 256, CIFAR, dtype=np.uint8).astype(np.float32) / 127.5 - 1
    centre = np.zeros(CIFAR[1:], np.float32)
    yield Figure(
        "clipping and noising as many images as CIFAR-10 has for training, one core",
        tuple(
            cpu_seconds(lambda: release_integers(pixels, centre, CLIP, ALPHA_BAR, SecureNoise()))
            for _ in range(repetitions)
        ),
        "CPU s",
        5,
        "at most",
    )
    yield from _wire(repetitions)


def _wire(repetitions: int) -> Iterator[Figure]:
    noise = np.random.default_rng(0).normal(0, SIGMA, IMAGES)
    release = np.clip(np.rint(noise), -32767, 32767).astype(np.int16)
    size = 4 * release.size / MILLION  # as float32, which is what the receiver works with
    for bits in (8, 4, 2):
        coded = encode(release, bits)
        decode(coded, bits, IMAGES)
        for what, work in (
            ("encode", lambda bits=bits: encode(release, bits)),
            ("decode", lambda bits=bits, coded=coded: decode(coded, bits, IMAGES)),
        ):
            rates = tuple(size / cpu_seconds(work) for _ in range(repetitions))
            yield Figure(f"{what} at {bits} bits per value, one core", rates, "MB of float32/s", 500)
