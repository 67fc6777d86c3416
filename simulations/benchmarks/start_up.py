"""What it costs to start: CPU seconds of new processes that import this or that."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from simulations.benchmarks.table import Figure

ROOT = Path(__file__).parents[2]
STARTS = (
    ("fedpdiff --help", ["-m", "fedpdiff", "--help"], 0.5),
    ("import client_app.app", ["-c", "import client_app.app"], 3.0),
    ("import server_app.app", ["-c", "import server_app.app"], None),
    ("import torch alone, for comparison", ["-c", "import torch"], None),
)


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures; the first start, which reads from disk, is not counted."""
    for what, arguments, goal in STARTS:
        seconds = [_cpu_seconds(arguments) for _ in range(repetitions + 1)][1:]
        yield Figure(what, tuple(seconds), "CPU s", goal, "at most")


def _cpu_seconds(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
