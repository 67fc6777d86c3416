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
REPEATABLE = ("privacy --t0 690 --clip 10", "privacy --frontier --out frontier.png", "policy --images 5000")


@pytest.mark.parametrize("command", REPEATABLE)
def test_shown_output_is_printed(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 0
    assert capsys.readouterr().out.strip() == SHOWN[command]


def test_every_command_is_shown_with_its_output() -> None:
    assert set(REPEATABLE) < set(SHOWN)
    assert len(SHOWN) == PAGE.count("```bash\nuv run fedpdiff")


def test_linked_files_and_sections_exist() -> None:
    sections = {
        re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", PAGE, re.M)
    }
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        if link.startswith("#"):
            assert link[1:] in sections, link
        elif not link.startswith("http"):
            assert (ROOT / "docs" / link).exists(), link


def test_named_tests_exist() -> None:
    for name in re.findall(r"`(tests/[\w/.]+)`", PAGE):
        assert (ROOT / name).exists(), name
