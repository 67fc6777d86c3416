"""Many runs from one file: a preset, settings for all, a grid of values, and seeds.

A sweep's folder holds one run folder for each point of the grid and seed. Runs that are finished there are
not repeated, so a sweep that was cut off goes on where it was; runs that failed are tried again and listed.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpdiff.config.settings import Value
from fedpdiff.errors import ConfigError
from fedpdiff.runfolder import write_json
from fedpdiff.simulation.presets import Preset, configure

PLAN = "sweep.json"
Size = Literal["ci", "cpu", "gpu"]
_UNSAFE = re.compile(r"[^A-Za-z0-9.+_-]+")


class Sweep(BaseModel):
    """A sweep file.

    Attributes
    ----------
    preset
        Name of the preset that all runs start from.
    seeds
        One run of every point of the grid for each.
    settings
        (``set`` in the file) settings of all runs.
    grid
        Setting -> its values; all combinations are run.
    size
        ``ci``, ``cpu`` or ``gpu`` -> settings for a machine of that size.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    description: str = ""
    preset: str
    seeds: list[int] = Field(min_length=1)
    settings: dict[str, bool | int | float | str] = Field(default={}, alias="set")
    grid: dict[str, list[bool | int | float | str]] = {}
    size: dict[Size, dict[str, bool | int | float | str]] = {}


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes
    ----------
    name
        Of its folder in the sweep's.
    overrides
        Settings that differ from the preset's.
    """

    name: str
    overrides: Mapping[str, Value]


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises
    ------
    ConfigError
        When it cannot be read, or a key is unknown, missing or wrong.
    """
    try:
        return Sweep.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable sweep file: {error}") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path}: " + "; ".join(lines)) from None


def plan(sweep: Sweep, size: Size | None, changes: Mapping[str, Value]) -> list[Planned]:
    """Return every run of a sweep; ``changes`` take precedence over the file's settings, not over its grid.

    Raises
    ------
    ConfigError
        When the file has no settings for ``size``.
    """
    if size is not None and size not in sweep.size:
        raise ConfigError(f"--size {size}: this sweep has settings for {', '.join(sweep.size) or 'no size'}")
    common: dict[str, Value] = {**sweep.settings, **(sweep.size[size] if size else {}), **changes}
    runs = []
    for values in itertools.product(*sweep.grid.values()):
        point = dict(zip(sweep.grid, values, strict=True))
        for seed in sweep.seeds:
            parts = [f"{key}-{value}" for key, value in point.items()] + [f"seed-{seed}"]
            name = _UNSAFE.sub("-", "_".join(parts))
            runs.append(Planned(name, {**common, **point, "seed": seed}))
    return runs


def run_sweep(
    presets: Mapping[str, Preset],
    sweep: Sweep,
    runs: Sequence[Planned],
    out: Path,
    jobs: int,
    say: Callable[[str], None],
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

    Raises
    ------
    ConfigError
        When any run's settings cannot work (before the first one starts), or the folder holds runs of other
        settings.
    """
    if sweep.preset not in presets:
        raise ConfigError(f"preset = {sweep.preset!r}: must be one of {', '.join(presets)}")
    waiting = [run for run in runs if not _finished(presets[sweep.preset], run, out / run.name)]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / PLAN, {"sweep": sweep.model_dump(by_alias=True), "runs": [run.name for run in runs]})
    say(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished before; results go to {out}")
    started, failures = time.monotonic(), []
    for done, (run, failed) in enumerate(_all(sweep.preset, waiting, out, jobs), start=1):
        left = (time.monotonic() - started) / done * (len(waiting) - done)
        state = f"FAILED, see {out / run.name / 'simulate.log'}" if failed else "done"
        say(f"{done} of {len(waiting)}  {run.name}: {state}; about {_minutes(left)} left")
        if failed:
            failures.append(f"{run.name}: {_last_line(out / run.name / 'simulate.log')}")
    return failures


def _finished(preset: Preset, run: Planned, folder: Path) -> bool:
    """Check a run's settings, and return whether its folder holds the results of just these."""
    config = configure(preset, run.overrides, folder).flat()
    if not (folder / "results.json").is_file():
        return False
    before = json.loads((folder / "config.json").read_text("utf-8"))
    different = sorted(
        key for key in set(before) | set(config) if before.get(key) != config.get(key) and key != "run-dir"
    )
    if different:
        raise ConfigError(
            f"{folder} holds a run of other settings ({', '.join(different[:5])}); choose another folder for "
            "this sweep"
        )
    return True


def _all(preset: str, runs: Sequence[Planned], out: Path, jobs: int) -> Iterator[tuple[Planned, bool]]:
    """Yield every run and whether it failed, as they end."""
    with ThreadPoolExecutor(jobs) as pool:
        pending: dict[Future[bool], Planned] = {}
        queue = list(runs)
        try:
            while queue or pending:
                while queue and len(pending) < jobs:
                    run = queue.pop(0)
                    pending[pool.submit(_run, preset, run, out / run.name)] = run
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
        finally:
            queue.clear()


def _run(preset: str, run: Planned, folder: Path) -> bool:
    """Run ``fedpdiff simulate`` in a process of its own and return whether it failed."""
    command = [sys.executable, "-m", "fedpdiff", "simulate", preset, "--out", str(folder)]
    for key, value in run.overrides.items():
        command += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "simulate.log").open("wb") as log, Popen(command, stdout=log, stderr=STDOUT) as process:
        try:
            return process.wait() != 0
        except BaseException:
            process.terminate()  # simulate ends its own processes
            raise


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"


def _minutes(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"
