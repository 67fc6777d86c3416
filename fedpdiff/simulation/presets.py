"""The presets under ``simulations/``: TOML files that override some of the app's settings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpdiff.config import RunConfig
from fedpdiff.config.settings import Value
from fedpdiff.errors import ConfigError
from fedpdiff.simulation.app import settings_folder

_PATHS = ("data", "partitioner-path", "inception-weights", "network")


@dataclass(frozen=True)
class Preset:
    """One file of ``simulations/``: its name, its first line, the settings it changes."""

    name: str
    description: str
    settings: Mapping[str, Any]

    def shown(self, key: str) -> Any:
        """Return the value that ``key`` has in this preset."""
        return self.settings.get(key, RunConfig().flat()[key])


def read_presets(folder: Path | None = None) -> dict[str, Preset]:
    """Read every preset by name, quickstart first; by default those of this installation.

    Raises
    ------
    ConfigError
        When a file is not valid TOML.
    """
    presets = (folder or settings_folder()) / "simulations"
    names = sorted((path.stem for path in presets.glob("*.toml")), key=_order)
    return {name: _read(presets / f"{name}.toml") for name in names}


def _order(name: str) -> tuple[bool, str]:
    return name != "quickstart", name


def _read(path: Path) -> Preset:
    text = path.read_text(encoding="utf-8")
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return Preset(path.stem, text.partition("\n")[0].lstrip("# "), settings)


def configure(preset: Preset, overrides: Mapping[str, Value], run_dir: Path) -> RunConfig:
    """Combine defaults, preset and overrides, and check the whole.

    Paths given relative to the current folder become absolute, because the run works in another folder.

    Raises
    ------
    ConfigError
        With one line per problem.
    """
    settings = {**preset.settings, **overrides, "run-dir": str(run_dir.absolute())}
    for key in _PATHS:
        value = str(settings.get(key, ""))
        path = Path(value).expanduser()
        if value and value not in ("digits", "tiny", "small", "ddpm") and path.exists():
            settings[key] = str(path.absolute())
    try:
        return RunConfig.parse(settings)
    except ConfigError as error:
        raise ConfigError(f"preset {preset.name} with these settings cannot run:\n{error}") from error
