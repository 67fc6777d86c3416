"""How many simulated clients train on one GPU at once: as many as its memory allows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

from fedpdiff.config import RunConfig
from fedpdiff.errors import RunError

RESERVE = 0.1
"""Share of a GPU's free memory that is left alone: gaps between blocks, and sampling in larger batches."""


def count_gpus(device: str) -> int:
    """Count the GPUs that the clients may use; torch is loaded only on a machine that may have some."""
    if device == "cpu" or (shutil.which("nvidia-smi") is None and not os.path.exists("/dev/nvidia0")):
        return 0
    import torch

    return torch.cuda.device_count() if device in ("auto", "cuda") else min(1, torch.cuda.device_count())


def clients_that_fit(free: int, peak: int) -> int:
    """Return how many clients have room on one GPU at once, at least 1.

    Parameters
    ----------
    free
        Bytes of the GPU that are free before the run.
    peak
        Bytes that one client's process takes at most. The server's training takes as much, beside them.
    """
    return max(1, int((1 - RESERVE) * free) // peak - 1)


def clients_per_gpu(config: RunConfig, log: IO[bytes] | int = subprocess.DEVNULL) -> tuple[int, str]:
    """Return how many clients train on one GPU at once, and why, in words.

    Raises
    ------
    RunError
        When it is to be measured and cannot be, for example because not even one client has room.
    """
    if config.gpu_clients != "auto":
        return int(config.gpu_clients), f"{config.gpu_clients} clients at a time on a GPU (gpu-clients)"
    if config.clients == 1:
        return 1, "1 client on the GPU"
    found = _measure(config, log)
    number = clients_that_fit(found["free"], found["peak"])
    return number, (
        f"up to {number} clients at a time on a GPU: one takes {_gib(found['peak'])} of its memory, of which "
        f"{_gib(found['free'])} are free (gpu-clients)"
    )


def _measure(config: RunConfig, log: IO[bytes] | int) -> dict[str, int]:
    """Measure in processes that end with it: what touched a GPU holds some of its memory until then."""
    done = subprocess.run(
        [sys.executable, "-m", "fedpdiff.federation.device_probe"],
        input=config.model_dump_json(by_alias=True).encode() + b"\n",
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        found = {}
    if "error" in found:
        raise RunError(str(found["error"]))
    if set(found) != {"free", "peak"}:
        raise RunError(
            'gpu-clients = "auto": the measurement of a client\'s memory on the GPU died (exit status '
            f"{done.returncode}); set gpu-clients to a number, or device to cpu"
        )
    return found


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
