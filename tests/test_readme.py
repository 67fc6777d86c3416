"""What the README shows is what the commands print."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fedpdiff.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command",
    [["privacy", "--epsilon", "10", "--clip", "10"], ["simulate", "--list"]],
    ids=["privacy", "list"],
)
def test_shown_output_is_printed(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert f"uv run fedpdiff {' '.join(command)}" in README
    assert main(command) == 0
    printed = capsys.readouterr().out.strip()
    assert printed and printed in README


def test_named_settings_exist() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    settings = declared["tool"]["flwr"]["app"]["config"]
    named = set(re.findall(r"--set ([a-z0-9-]+)=", README))
    assert named and named <= set(settings)


def test_linked_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links and all((ROOT / link.partition("#")[0]).exists() for link in links)
