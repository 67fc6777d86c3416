"""Seeded random streams: one per purpose, so that no two parts of a run share random numbers.

Nothing here may touch the noise of a release, which comes from the operating system
(:mod:`fedpdiff.privacy.gaussian_noise`).
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def _derive(seed: int, purpose: tuple[int | str, ...]) -> int:
    text = repr((int(seed), *purpose)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def torch_generator(seed: int, *purpose: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator for one purpose, for example ``("client", 3, "personal")``."""
    # torch's signed 64-bit seed; its CPU generator uses 32 of these bits, enough for training and sampling.
    return torch.Generator(device=device).manual_seed(_derive(seed, purpose) >> 1)


def numpy_generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """Return a NumPy generator for one purpose; independent of every other purpose's."""
    return np.random.default_rng(_derive(seed, purpose))
