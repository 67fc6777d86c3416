"""The GPU that benchmarks run on: its name, and time that counts its work."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def describe() -> str:
    """Return the GPU's name and torch's version.

    Raises
    ------
    SystemExit
        When torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU, and torch sees none here")
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


def seconds(work: Callable[[], None]) -> float:
    """Return how long work takes until the GPU has done it."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began
