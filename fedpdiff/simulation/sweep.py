"""Many runs, each as ``fedpdiff simulate`` in a process of its own, in a folder that a sweep can go on in.

A sweep's folder holds one run folder for each point and seed. Runs that are finished there are not repeated,
so a sweep that was cut off goes on where it was; runs that failed are tried again and listed. A run counts as
finished by its ``results.json``, which appears whole or not at all.

Only one sweep at a time works in a folder: it holds a lock there, which goes with its process however that
ends. A sweep that is asked to end (SIGTERM, SIGHUP, Ctrl-C) ends its runs and whatever they started. One that
is killed cannot; the run that it was at then goes on by itself, until it is finished or the next sweep in the
folder, which finds the mark of the killed one's processes in the lock file, ends it and goes on with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fedpdiff.config.settings import Value
from fedpdiff.errors import ConfigError, FedpdiffError, RunError
from fedpdiff.results import Results
from fedpdiff.runfolder import MAY_CHANGE, write_json
from fedpdiff.simulation.presets import Preset, configure
from fedpdiff.simulation.processes import ProcessFamily, end_marked, exit_on_signals, marked
from fedpdiff.simulation.sweep_file import Planned, Sweep

PLAN = "sweep.json"
LOCK = "sweep.lock"
LOG = "simulate.log"
_FAMILY_MARK = re.compile(r"(/[0-9a-f]{32})+")
_POLL_SECONDS = 0.5


def run_sweep(
    presets: Mapping[str, Preset],
    sweep: Sweep,
    runs: Sequence[Planned],
    out: Path,
    jobs: int,
    say: Callable[[str], None],
    chosen: Sequence[Planned] | None = None,
) -> list[str]:
    """Run what is not finished yet, and return one line for each run that failed.

    Parameters
    ----------
    presets
        All presets, by name.
    sweep, runs
        The sweep and its runs.
    out
        The sweep's folder.
    jobs
        Runs at a time.
    say
        Shows one line of progress.
    chosen
        Those of ``runs`` to run now; the folder keeps the plan of all, and what was finished of it. Default
        all.

    Raises
    ------
    ConfigError
        When any run's settings cannot work (before the first one starts), or the folder holds runs of other
        settings.
    RunError
        When another sweep is at work in the folder.
    SystemExit
        On SIGTERM, SIGHUP and SIGINT, when every process of the runs has ended.
    """
    if sweep.preset not in presets:
        raise ConfigError(f"preset = {sweep.preset!r}: must be one of {', '.join(presets)}")
    for run in runs:
        _check(presets[sweep.preset], run, out / run.name)
    out.mkdir(parents=True, exist_ok=True)
    with (
        exit_on_signals(),
        _locked(out, say) as lock,
        ProcessFamily(os.environ, Path.cwd(), subprocess.DEVNULL) as family,
    ):
        _write(lock, family.mark)
        # Only now: a run that a killed sweep left may just have finished.
        asked = runs if chosen is None else chosen
        waiting = [run for run in asked if not _finished(out / run.name)]
        write_json(out / PLAN, _plan_file(sweep, runs))
        say(f"{len(asked)} runs, {len(asked) - len(waiting)} of them finished before; results go to {out}")
        return _report_each(_all(family, sweep.preset, waiting, out, jobs), len(waiting), out, say)


def _report_each(
    ended: Iterator[tuple[Planned, bool]], number: int, out: Path, say: Callable[[str], None]
) -> list[str]:
    """Say what becomes of each run as it ends; return a line for each failure."""
    started, failures = time.monotonic(), []
    for done, (run, failed) in enumerate(ended, start=1):
        left = (time.monotonic() - started) / done * (number - done)
        log = out / run.name / LOG
        state = f"FAILED, see {log}" if failed else "done"
        say(f"{done} of {number}  {run.name}: {state}" + (f"; about {_time(left)} left" if left else ""))
        if failed:
            failures.append(f"{run.name}: {_cause(log)}")
    return failures


def _plan_file(sweep: Sweep, runs: Sequence[Planned]) -> dict[str, object]:
    return {
        "description": sweep.description,
        "preset": sweep.preset,
        "runs": [{"name": run.name, "point": dict(run.point)} for run in runs],
    }


def _check(preset: Preset, run: Planned, folder: Path) -> None:
    """Refuse settings that cannot work, and a folder that holds a run of others or is damaged."""
    try:
        config = configure(preset, run.overrides, folder).flat()
    except ConfigError as error:
        raise ConfigError(f"{run.name}: {error}") from None
    results, settings = folder / "results.json", folder / "config.json"
    if not settings.is_file() and not results.is_file():
        return
    try:
        before = json.loads(settings.read_text("utf-8"))
        if results.is_file():
            Results.read(folder)
    except (OSError, ValueError, FedpdiffError) as error:
        raise ConfigError(f"{folder} is damaged; delete it to run it again ({error})") from None
    different = sorted(
        key for key in (set(before) | set(config)) - set(MAY_CHANGE) if before.get(key) != config.get(key)
    )
    if different:
        raise ConfigError(
            f"{folder} holds a run of other settings ({', '.join(different[:5])}); choose another folder for "
            "this sweep"
        )


def _finished(folder: Path) -> bool:
    return (folder / "results.json").is_file()


@contextmanager
def _locked(out: Path, say: Callable[[str], None]) -> Iterator[IO[str]]:
    """Keep other sweeps out of the folder, and end what a killed one left running there."""
    with (out / LOCK).open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another fedpdiff sweep is at work in {out}; wait for its end, or end it"
            ) from None
        lock.seek(0)
        mark = lock.read().strip()
        if _FAMILY_MARK.fullmatch(mark) and (left := marked(mark)):
            say(f"ending {len(left)} processes that a killed sweep left here")
            end_marked(mark)
        yield lock


def _write(lock: IO[str], mark: str) -> None:
    lock.truncate(0)
    lock.write(mark)
    lock.flush()


def _all(
    family: ProcessFamily, preset: str, runs: Sequence[Planned], out: Path, jobs: int
) -> Iterator[tuple[Planned, bool]]:
    """Yield every run and whether it failed, as they end."""
    queue, running = list(runs), dict[subprocess.Popen[bytes], Planned]()
    while queue or running:
        while queue and len(running) < jobs:
            run = queue.pop(0)
            running[_start(family, preset, run, out / run.name)] = run
        ended = [process for process in running if process.poll() is not None]
        for process in ended:
            run = running.pop(process)
            yield run, process.returncode != 0 or not _finished(out / run.name)
        if not ended:
            time.sleep(_POLL_SECONDS)


def _start(family: ProcessFamily, preset: str, run: Planned, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("wb") as log:
        return family.start(_command(preset, run.overrides, folder), log, log)


def _command(preset: str, settings: Mapping[str, Value], folder: Path) -> list[str]:
    """Return the command of one run."""
    command = [sys.executable, "-m", "fedpdiff", "simulate", preset, "--out", str(folder)]
    for key, value in settings.items():
        command += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    return command


def _cause(log: Path) -> str:
    """Return the line in which the run says why it failed, or its last one."""
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("fedpdiff: ")]
    return ([*own, *lines[-1:], "no output"][0].removeprefix("fedpdiff: "))[:300]


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"
