"""One real ``fedpdiff simulate``, and what memory its processes take."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from fedpdiff.config.settings import Value
from fedpdiff.simulation.processes import MARK, end_marked, marked

ROOT = Path(__file__).parents[2]
SECONDS = 2.0  # between two looks at the memory
# By what a command line begins with or holds; the first that fits counts.
ROLES = {
    "actor": ("ray::",),  # each serves many clients
    "driver and ServerApp": ("flwr-simulation",),
    "SuperLink": ("flower-superlink",),
}


@dataclass(frozen=True)
class SimulatedRun:
    """A finished run.

    Attributes
    ----------
    folder
        The run folder.
    began, ended
        When the command was started and when it had ended, Unix seconds.
    peaks
        Largest resident memory of any one process by role, bytes; pages that processes share count in each.
    """

    folder: Path
    began: float
    ended: float
    peaks: dict[str, int]

    @property
    def seconds(self) -> float:
        """Wall time of the whole command."""
        return self.ended - self.began


def simulate(folder: Path, settings: Mapping[str, Value]) -> SimulatedRun:
    """Run the quickstart with these settings changed, as a user does, and wait for its end.

    Parameters
    ----------
    folder
        The run folder; must not exist.
    settings
        Settings by name.

    Raises
    ------
    SystemExit
        When the run fails, with what it printed last.
    """
    command = [sys.executable, "-m", "fedpdiff", "simulate", "quickstart", "--out", str(folder)]
    for key, value in settings.items():
        command += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    mark = f"/{uuid.uuid4().hex}"
    peaks = dict.fromkeys(ROLES, 0)
    began = time.time()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    printed = process.communicate(timeout=SECONDS)[0]
                    break
                _look(mark, peaks)
        finally:
            process.terminate()
            end_marked(mark)
    if process.returncode:
        raise SystemExit(f"the run failed:\n{printed[-3000:]}")
    return SimulatedRun(folder, began, time.time(), peaks)


def _look(mark: str, peaks: dict[str, int]) -> None:
    """Raise the peaks to what the run's processes take now."""
    for process in marked(mark):
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            role = next((role for role, names in ROLES.items() if any(n in words for n in names)), None)
            if role:
                peaks[role] = max(peaks[role], process.memory_info().rss)
