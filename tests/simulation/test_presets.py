"""Presets: valid, explained, and checked as a whole before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpdiff.config import RunConfig
from fedpdiff.errors import ConfigError
from fedpdiff.simulation.app import settings_folder
from fedpdiff.simulation.presets import configure, read_presets

PRESETS = read_presets()


def test_the_presets() -> None:
    assert set(PRESETS) == {"quickstart", "mnist", "paper", "paper-v1"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_and_explained(name: str, tmp_path: Path) -> None:
    preset = PRESETS[name]
    assert (settings_folder() / "simulations" / f"{name}.toml").read_text().startswith("# ")
    assert len(preset.description) > 20
    assert set(preset.settings) <= set(RunConfig().flat())
    data = preset.settings.get("data") or "digits"
    assert configure(preset, {"data": data}, tmp_path).run_dir == str(tmp_path)


def test_quickstart_is_what_a_plain_flower_run_runs(tmp_path: Path) -> None:
    config = configure(PRESETS["quickstart"], {}, tmp_path)
    assert {**config.flat(), "run-dir": ""} == RunConfig().flat()


def test_mnist_asks_for_its_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"preset mnist .*\n.*--set data=PATH"):
        configure(PRESETS["mnist"], {}, tmp_path)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "digits").mkdir()
    config = configure(PRESETS["quickstart"], {"data": "images"}, Path("out"))
    assert (config.data, config.run_dir) == (str(tmp_path / "images"), str(tmp_path / "out"))
    assert configure(PRESETS["quickstart"], {}, Path("out")).data == "digits"


def test_overrides_win(tmp_path: Path) -> None:
    config = configure(PRESETS["paper"], {"t0": 500, "clients": 4}, tmp_path)
    assert (config.t0, config.clients, config.chain) == (500, 4, "nested")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "simulations").mkdir()
    (tmp_path / "simulations" / "bad.toml").write_text("# bad\nclients == 2\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        read_presets(tmp_path)
