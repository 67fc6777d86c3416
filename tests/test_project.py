"""pyproject.toml: every direct dependency is pinned for uv, and Flower's bundle holds code only."""

from __future__ import annotations

import io
import re
import tomllib
import zipfile
from pathlib import Path

from flwr.cli.build import build_fab_from_disk

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def name(requirement: str) -> str:
    return re.split(r"[\[<>=]", requirement)[0]


def test_every_direct_dependency_is_pinned_once() -> None:
    direct = PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]
    pins = PYPROJECT["tool"]["uv"]["constraint-dependencies"]
    assert [name(pin) for pin in pins] == [name(requirement) for requirement in direct]
    assert all("==" in pin for pin in pins)
    assert not any("==" in requirement for requirement in direct)


def test_no_registry_is_named() -> None:
    assert "index" not in PYPROJECT["tool"]["uv"]
    assert "://" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_bundle_holds_code_only() -> None:
    bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT)))
    names = [entry for entry in bundle.namelist() if not entry.startswith(".info/")]
    assert {"pyproject.toml", "client_app/app.py", "server_app/app.py", "fedpdiff/config/run.py"} <= set(
        names
    )
    assert all(entry.endswith(".py") or entry in ("pyproject.toml", "LICENSE") for entry in names)
