"""The statement and its command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fedpdiff.cli import main
from fedpdiff.privacy.statement import privacy_statement

KEYS = {
    "epsilon", "epsilon_theorem_5_1", "delta", "mu", "t0", "alpha_bar", "clip", "schedule",
    "unit", "adjacency", "attack_ceilings",
}  # fmt: skip


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["privacy", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_papers_setting(capsys: pytest.CaptureFixture[str]) -> None:
    statement = _json(capsys, "--t0", "690")
    assert set(statement) == KEYS
    assert (statement["epsilon"], statement["epsilon_theorem_5_1"]) == (8.774, 10.243)
    assert statement == privacy_statement(statement["alpha_bar"], 10.0, 1e-5, 690, "linear")


def test_from_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    statement = _json(capsys, "--epsilon", "10")
    assert statement["t0"] == 675 and 9.9 < statement["epsilon"] <= 10


def test_cosine_at_the_same_t0_is_another_guarantee(capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(capsys, "--t0", "690", "--schedule", "cosine")["epsilon"] == pytest.approx(98.9, abs=0.1)


def test_per_pixel(capsys: pytest.CaptureFixture[str]) -> None:
    statement = _json(capsys, "--t0", "100", "--per-pixel", "1")
    assert set(statement) == KEYS | {"per_pixel"}
    assert statement["per_pixel"]["epsilon_theorem_5_1"] == pytest.approx(45.75, abs=0.01)
    assert "weaker" in statement["per_pixel"]["unit"]


def test_human_output_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "--t0", "690"]) == 0
    output = capsys.readouterr().out
    assert "8.774" in output and "10.243" in output and "7.7 %" in output and "Warning" not in output
    assert main(["privacy", "--t0", "100", "--delta", "0.01", "--per-pixel", "1"]) == 0
    output = capsys.readouterr().out
    assert "nearly empty" in output and "delta 0.01 is large" in output and "WEAKER" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--t0", "0"], "--t0 is 0"),
        (["--t0", "1001"], "between 1 and the 1000 steps"),
        (["--t0", "5", "--steps", "0"], "--steps is 0"),
        (["--epsilon", "0.001"], "reaches only"),
        (["--epsilon", "-1"], "epsilon is -1"),
        (["--t0", "690", "--delta", "2"], "delta is 2"),
        (["--t0", "690", "--clip", "0"], "clip is 0"),
    ],
)
def test_mistakes_are_named(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["privacy", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_ceilings_fall_with_the_noise() -> None:
    weak, strong = (privacy_statement(a, 10.0, 1e-5, 1, "linear")["attack_ceilings"] for a in (0.01, 0.001))
    assert all(strong[name] < weak[name] <= 1 for name in weak)


def test_the_command_needs_no_torch() -> None:
    code = (
        "import sys, argparse; from fedpdiff.cli.privacy import _statement as statement;"
        "statement(argparse.Namespace(steps=1000, schedule='linear', t0=690, epsilon=None, clip=10.0,"
        " delta=1e-5, per_pixel=None)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
