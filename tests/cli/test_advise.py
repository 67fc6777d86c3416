"""``fedpdiff advise``: words, JSON, and refusals in our own words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedpdiff.cli import main

ASKED = ["advise", "--epsilon", "10", "--images", "60000", "--minority", "5", "--shape", "28x28x1"]


def test_words_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ASKED) == 0
    text = capsys.readouterr().out
    assert text.startswith("Yes, collaborating will pay. Expect the distance of rare classes")
    assert text.index("Asked: epsilon = 10") < text.index("signal-to-noise") < text.index("expected gain")
    assert "Warning: delta 1e-05 is above" in text  # 30,000 images of one client


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, "--json", "--delta", "1e-6", "--classes", "20", "--clients", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "yes" and found["limit"] is None
    assert found["question"] == {
        "epsilon": 10.0, "images": 60000, "minority": 5, "shape": [28, 28, 1], "delta": 1e-6, "classes": 20,
        "clients": 4,
    }  # fmt: skip
    assert found["cautions"] == []


def test_the_page_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "advice.md").read_text(encoding="utf-8")
    assert f"uv run fedpdiff {' '.join(ASKED)}\n" in page
    assert main(ASKED) == 0
    assert capsys.readouterr().out.strip() in page


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--shape", "28", "--shape 28: must be height x width x channels"),
        ("--shape", "28x28x9", "channels 1 or 3"),
        ("--epsilon", "-1", "epsilon is -1"),
        ("--images", "4", "images is 4"),
    ],
)
def test_refusals(option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = list(ASKED)
    arguments[arguments.index(option) + 1] = value
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
