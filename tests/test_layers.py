"""Imports point one way: the mathematics knows no Flower, and each package only what lies below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FOUNDATION = ["errors", "plain", "rng", "types", "schedule"]
# Each part of the library, from the bottom up, with the parts it may import.
MAY_IMPORT: dict[str, list[str]] = {
    "errors": [],
    "plain": [],
    "rng": [],
    "types": ["errors"],
    "schedule": ["errors"],
    "fingerprint": ["errors"],
    "config": FOUNDATION,
    "data": [*FOUNDATION, "config"],
    "diffusion": [*FOUNDATION, "config"],
    "privacy": [*FOUNDATION, "config"],
    "metrics": [*FOUNDATION, "config"],
    "attacks": [*FOUNDATION, "config", "data", "diffusion", "privacy"],
    "methods": [*FOUNDATION, "config", "diffusion", "privacy"],
    "events": FOUNDATION,
    "sample_file": ["types"],
    "runfolder": [*FOUNDATION, "config"],
    "results": [*FOUNDATION, "config", "runfolder"],
    "advice": [*FOUNDATION, "config", "privacy"],
    "attack_results": ["errors", "runfolder"],
    "deletions": ["errors", "runfolder"],
    "evaluation": [*FOUNDATION, "config", "metrics", "results"],
}
LIBRARY = list(MAY_IMPORT)
MAY_IMPORT |= {
    "report": [
        *FOUNDATION,
        "advice",
        "privacy",
        "events",
        "results",
        "attack_results",
        "deletions",
        "runfolder",
    ],
    "federation": LIBRARY,
    "evidence": [*LIBRARY, "federation"],
    "publishing": [*LIBRARY, "federation"],
    "records": ["errors", "federation"],
    "simulation": ["errors", "config", "events", "results", "runfolder", "report"],
    "deployment": [*FOUNDATION, "config", "data", "fingerprint", "privacy", "runfolder"],
    "cli": [*LIBRARY, "deployment", "federation", "evidence", "publishing", "report", "simulation"],
    "__init__": ["diffusion"],
    "__main__": ["cli"],
}
FLOWER = ("flwr", "ray")


def imports(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(path: Path) -> str:
    return path.relative_to(ROOT / "fedpdiff").parts[0].removesuffix(".py")


def used_parts(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("fedpdiff.")}


FILES = sorted((ROOT / "fedpdiff").rglob("*.py"))


def test_every_part_of_the_library_has_its_place() -> None:
    assert {part(path) for path in FILES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_point_one_way(name: str) -> None:
    allowed = {name, *MAY_IMPORT[name]}
    wrong = {
        str(path.relative_to(ROOT)): sorted(used_parts(path) - allowed)
        for path in FILES
        if part(path) == name and used_parts(path) - allowed
    }
    assert wrong == {}


def test_only_records_knows_flower() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in FILES
        if {n.split(".")[0] for n in imports(path)} & set(FLOWER)
    }
    assert users == {"fedpdiff/records.py"}


def test_only_data_uses_flower_datasets() -> None:
    users = {part(path) for path in FILES if any(name.startswith("flwr_datasets") for name in imports(path))}
    assert users == {"data"}


def test_the_server_starts_without_what_reads_images() -> None:
    """A coordinator without public images does not pay 90 MB of memory for a reader of images."""
    heavy = "{'datasets', 'pyarrow', 'opacus'}"
    program = f"import sys, server_app.app; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_library_never_imports_the_apps() -> None:
    apps = {"client_app", "server_app"}
    assert not any({name.split(".")[0] for name in imports(path)} & apps for path in FILES)
    for app in apps:
        others = apps - {app}
        for path in (ROOT / app).rglob("*.py"):
            assert not {name.split(".")[0] for name in imports(path)} & others


def test_the_rule_would_notice(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("def f():\n    from fedpdiff.privacy import wire\n    import flwr.app\n")
    assert imports(path) == {"fedpdiff.privacy.wire", "flwr.app"}
