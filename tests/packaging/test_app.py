"""The Flower app put together from the installed packages is the checkout's, and a wheel can make it."""

from __future__ import annotations

import io
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from fedpdiff.cli import main
from fedpdiff.simulation.app import flower_app, settings_folder

ROOT = Path(__file__).parents[2]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]


def bundle(folder: Path) -> dict[str, bytes]:
    """Return the files that Flower ships of an app."""
    archive = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(folder)))
    return {name: archive.read(name) for name in archive.namelist()}


def test_the_written_app_ships_what_the_checkout_ships(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fedpdiff"
    assert main(["app", str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out
    assert bundle(folder) == bundle(ROOT)


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("x")
    assert main(["app", str(tmp_path)]) == 2
    assert f"{tmp_path} is not empty" in capsys.readouterr().err
    assert main(["app", str(tmp_path / "mine")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_checkout_is_run_as_it_is() -> None:
    with flower_app() as app:
        assert app == settings_folder() == ROOT


def test_a_wheel_carries_every_preset() -> None:
    carried = {source for source in BUILD["targets"]["wheel"]["force-include"] if "simulations/" in source}
    presets = {f"simulations/{path.name}" for path in (ROOT / "simulations").glob("*.toml")}
    assert carried == presets | {"simulations/sweeps"}
