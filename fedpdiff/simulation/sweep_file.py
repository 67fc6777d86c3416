"""Sweep files: a preset, settings of all runs, grids of values, seeds, and what a size of machine changes."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fedpdiff.config.settings import Value
from fedpdiff.errors import ConfigError
from fedpdiff.simulation.app import settings_folder

Size = Literal["ci", "cpu", "gpu"]
SIZES: tuple[Size, ...] = get_args(Size)
VARIANT = "variant"
"""Key of a grid that is no setting: a name for the settings that its runs have in common."""
_UNSAFE = re.compile(r"[^A-Za-z0-9.+_-]+")

_Value = bool | int | float | str
_Grid = dict[str, _Value | Annotated[list[_Value], Field(min_length=1)]]
_Grids = Annotated[
    list[_Grid], Field(min_length=1), BeforeValidator(lambda grid: [grid] if isinstance(grid, dict) else grid)
]
_Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SizeChanges(_Part):
    """What a size changes: settings (``set``) are added, the others take the place of the file's."""

    preset: str | None = None
    seeds: _Seeds | None = None
    settings: dict[str, _Value] = Field(default={}, alias="set")
    grid: _Grids | None = None


class Sweep(_Part):
    """A sweep file.

    Attributes
    ----------
    description
        What it compares, for a reader of its report.
    preset
        Name of the preset that all runs start from.
    seeds
        One run of every point for each.
    settings
        (``set`` in the file) settings of all runs.
    grid
        One or several grids: setting -> a list of its values, or one value that all runs of this grid have
        and no table shows. The points are all combinations within each grid. With ``variant`` a grid gives
        what its runs have in common a name, and tables show that.
    size
        ``ci``, ``cpu`` or ``gpu`` -> what changes on a machine of that size.
    """

    description: str = ""
    preset: str
    seeds: _Seeds
    settings: dict[str, _Value] = Field(default={}, alias="set")
    grid: _Grids = [{}]
    size: dict[Size, SizeChanges] = {}

    def sized(self, size: Size | None) -> Sweep:
        """Return the sweep for a machine of this size; None leaves it as the file has it.

        Raises
        ------
        ConfigError
            When the file knows no such size.
        """
        if size is None:
            return self
        if size not in self.size:
            raise ConfigError(
                f"--size {size}: this sweep has settings for {', '.join(self.size) or 'no size'}"
            )
        change = self.size[size]
        return self.model_copy(
            update={
                "preset": change.preset or self.preset,
                "seeds": change.seeds or self.seeds,
                "settings": {**self.settings, **change.settings},
                "grid": change.grid or self.grid,
                "size": {},
            }
        )


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes
    ----------
    name
        Of its folder in the sweep's.
    point
        The settings in which the sweep's points differ, as far as this one has them.
    overrides
        All settings that differ from the preset's.
    """

    name: str
    point: Mapping[str, Value]
    overrides: Mapping[str, Value]


def find_sweep(named: str) -> Path:
    """Return the file that is meant: a path, or the name of one under ``simulations/sweeps/``.

    Raises
    ------
    ConfigError
        When there is neither such a file nor such a name.
    """
    own = {path.stem: path for path in sorted((settings_folder() / "simulations" / "sweeps").glob("*.toml"))}
    path = Path(named).expanduser()
    if not path.is_file() and named not in own:
        raise ConfigError(f"{named} is no sweep file, and none of the experiments {', '.join(own)}")
    return path if path.is_file() else own[named]


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
        raise ConfigError(f"{path}: " + "; ".join(dict.fromkeys(lines))) from None


def plan(sweep: Sweep, changes: Mapping[str, Value], seeds: Sequence[int] | None = None) -> list[Planned]:
    """Return every run, all points of the first seed before those of the next.

    Parameters
    ----------
    sweep
        The sweep, for its size.
    changes
        Settings that take precedence over the file's.
    seeds
        Instead of the file's.

    Raises
    ------
    ConfigError
        When ``changes`` holds what the sweep itself varies, ``[set]`` names a variant, or a point occurs
        twice.
    """
    if VARIANT in sweep.settings:
        raise ConfigError(f"[set] {VARIANT}: it names a grid; give it there")
    own = {"seed", *(key for grid in sweep.grid for key, values in grid.items() if isinstance(values, list))}
    own &= set(changes)
    if own:
        raise ConfigError(
            f"--set {min(own)}: the sweep itself varies it; "
            + ("use --seeds" if min(own) == "seed" else "change its grid in the file")
        )
    points = [point for grid in sweep.grid for point in _points(grid)]
    varied = _varied(points)
    runs = []
    for seed in dict.fromkeys(seeds or sweep.seeds):
        for fixed, point in points:
            shown = {key: point[key] for key in varied if key in point}
            parts = [f"{key}-{_text(value)}" for key, value in shown.items()] + [f"seed-{seed}"]
            settings = {**sweep.settings, **fixed, **changes, **point, "seed": seed}
            settings.pop(VARIANT, None)
            runs.append(Planned(_UNSAFE.sub("-", "_".join(parts)), shown, settings))
    twice = sorted({run.name for run in runs if [other.name for other in runs].count(run.name) > 1})
    if twice:
        raise ConfigError(f"the grids of the sweep have a point twice: {twice[0]}")
    return runs


def select(runs: Sequence[Planned], only: Sequence[tuple[str, Value]]) -> list[Planned]:
    """Return the runs whose point has one of the values asked for, for every setting that is asked for.

    Parameters
    ----------
    runs
        Of :func:`plan`.
    only
        Settings that the sweep varies, each with a value; all runs stay where there are none.

    Raises
    ------
    ConfigError
        When the sweep does not vary a setting, never to that value, or no run has all of them.
    """
    wanted: dict[str, set[Value]] = {}
    for key, value in only:
        values = dict.fromkeys(run.point[key] for run in runs if key in run.point)
        if not values:
            varied = dict.fromkeys(key for run in runs for key in run.point)
            raise ConfigError(f"--only {key}={value}: the sweep varies {', '.join(varied) or 'nothing'}")
        if value not in values:
            allowed = ", ".join(map(_text, values))
            raise ConfigError(f"--only {key}={value}: in this sweep {key} is one of {allowed}")
        wanted.setdefault(key, set()).add(value)
    chosen = [run for run in runs if all(run.point.get(key) in values for key, values in wanted.items())]
    if not chosen:
        raise ConfigError(f"no run of the sweep has {' and '.join(f'{key}={value}' for key, value in only)}")
    return chosen


def _points(grid: Mapping[str, _Value | list[_Value]]) -> list[tuple[dict[str, Value], dict[str, Value]]]:
    """Return the points of one grid, each after the settings that all of them have."""
    fixed: dict[str, Value] = {}
    lists: dict[str, list[Value]] = {}
    for key, value in grid.items():
        if isinstance(value, list):
            lists[key] = value
        elif key == VARIANT:
            lists[key] = [value]
        else:
            fixed[key] = value
    return [(fixed, dict(zip(lists, values, strict=True))) for values in itertools.product(*lists.values())]


def _varied(points: Sequence[tuple[Mapping[str, Value], Mapping[str, Value]]]) -> list[str]:
    """Return the settings that are not the same in all points, in the order of the file."""
    keys = dict.fromkeys(key for _, point in points for key in point)
    return [key for key in keys if len({_text(point.get(key)) for _, point in points}) > 1]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
