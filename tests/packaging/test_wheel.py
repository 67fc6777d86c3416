"""A wheel in a new environment, with no checkout in reach: its commands work and a whole run finishes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fedpdiff.results import Results

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")  # Flower brings it
SHORT = {
    "personal-steps": 2,
    "global-steps": 2,
    "batch-size": 8,
    "warmup-steps": 0,
    "global-sampling-steps": 2,
    "personal-sampling-steps": 2,
    "samples-per-class": 2,
    "device": "cpu",
}

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command that must succeed, without a way back to the checkout."""
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=own | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel and what it says it needs, in this environment's versions; return the programs' folder.

    The files come from uv's cache; what is not there is fetched.
    """
    run(UV, "venv", "--python", sys.executable, folder / "venv", cwd=folder)
    frozen = run(UV, "pip", "freeze", "--python", sys.executable, "--exclude-editable", cwd=folder)
    (folder / "versions.txt").write_text(
        "".join(line + "\n" for line in frozen.splitlines() if " @ " not in line)
    )
    python = folder / "venv" / "bin" / "python"
    command = [UV, "pip", "install", "--python", python, "-c", folder / "versions.txt", wheel]
    try:
        run(*command, "--offline", cwd=folder)
    except AssertionError:
        run(*command, cwd=folder)
    return python.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built by way of the source distribution, as for a package registry."""
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--out-dir", folder, ROOT, cwd=folder)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_packages_and_nothing_of_the_checkout_around_them(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == {"fedpdiff", "client_app", "server_app"}
    assert all(name.endswith((".py", ".toml", "/LICENSE")) for name in names)


def test_an_installed_wheel_runs_from_command_to_report(wheel: Path, tmp_path: Path) -> None:
    tools = install(wheel, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fedpdiff = tools / "fedpdiff"
    where = run(tools / "python", "-c", "import fedpdiff; print(fedpdiff.__file__)", cwd=elsewhere)
    assert where.startswith(str(tmp_path / "venv"))

    assert "simulate" in run(fedpdiff, "--help", cwd=elsewhere)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in (["privacy", "--epsilon", "10", "--clip", "10"], ["simulate", "--list"]):
        assert run(fedpdiff, *command, cwd=elsewhere).strip() in readme

    changes = [f"--set={key}={value}" for key, value in SHORT.items()]
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "HF_HUB_OFFLINE": "1", "HOME": str(elsewhere)}
    run(fedpdiff, "simulate", "quickstart", "--out", "run", *changes, cwd=elsewhere, **quiet)
    assert Results.read(elsewhere / "run").refused == []
    assert (elsewhere / "run" / "report.html").is_file()
    assert "verified" in run(fedpdiff, "verify", "run", cwd=elsewhere, **quiet)
