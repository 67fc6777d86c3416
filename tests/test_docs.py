"""What docs/privacy.md shows is what the commands print, where they print the same each time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedpdiff.cli import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
SHOWN = dict(
    re.findall(r"```bash\nuv run fedpdiff ([^\n]*)\n```\n\n```(?:text|toml)\n(.*?)\n```", PAGE, re.DOTALL)
)
REPEATABLE = ("privacy --t0 690 --clip 10", "policy --images 5000")


@pytest.mark.parametrize("command", REPEATABLE)
def test_shown_output_is_printed(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 0
    assert capsys.readouterr().out.strip() == SHOWN[command]


def test_the_frontier_has_the_rows_that_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "--frontier"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()]
    shown = next(text for command, text in SHOWN.items() if command.startswith("privacy --frontier"))
    rows = [line for line in shown.splitlines() if line.strip()[:1].isdigit()]
    assert len(rows) == len(printed) == 5
    for row, numbers in zip(rows, printed, strict=True):
        assert row.startswith(numbers)  # distances that runs measured stand behind them


def test_every_command_is_shown_with_its_output() -> None:
    assert set(REPEATABLE) < set(SHOWN)
    assert len(SHOWN) == PAGE.count("```bash\nuv run fedpdiff")


def test_linked_files_and_sections_exist() -> None:
    sections = {
        re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", PAGE, re.M)
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(docs/privacy\.md(#[^)]+)\)", readme) + re.findall(r"\]\(([^)]+)\)", PAGE):
        if link.startswith("#"):
            assert link[1:] in sections, link
        elif not link.startswith("http"):
            assert (ROOT / "docs" / link.partition("#")[0]).exists(), link


def test_named_tests_exist() -> None:
    for name in re.findall(r"`(tests/[\w/.]+)`", PAGE):
        assert (ROOT / name).exists(), name
