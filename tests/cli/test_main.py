"""The command line: quick to answer, one clean line for a mistake, the right exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedpdiff.cli import COMMANDS, build_parser, main


def test_every_command_is_there() -> None:
    text = build_parser().format_help()
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["simulate", "--list"], ["privacy", "--help"]])
def test_help_does_not_load_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom fedpdiff.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'flwr', 'ray', 'matplotlib', 'datasets') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_the_list_explains_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--list"]) == 0
    text = capsys.readouterr().out
    assert "quickstart\n" in text
    assert "2 clients, t0 690, data: digits" in text
    assert "data: given with --set data=PATH" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no preset given: must be one of quickstart, mnist, paper, paper-v1"),
        (["quick"], "no preset 'quick'"),
        (["quickstart", "--set", "epsilom=5"], "epsilom: unknown setting, did you mean epsilon?"),
        (["quickstart", "--set", "epsilon=-5"], "epsilon = -5.0: must be a number of at least 0"),
        (["quickstart", "--set", "t0=690"], "epsilon = 60 and t0 = 690 exclude each other"),
        (["quickstart", "--seed", "-1"], "seed = -1: must be a whole number"),
        (["mnist"], "give one with --set data=PATH"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["simulate", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fedpdiff: error: ")
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "the disk is full; make room"),
        (OSError(28, "No space left on device", "/x/y"), "the disk is full at /x/y; make room"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full; make room"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied; is it there"),
    ],
)
def test_what_a_disk_refuses_is_one_line(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr("fedpdiff.cli.policy.run", refuse)
    assert main(["policy", "--images", "5"]) == 2
    assert capsys.readouterr().err.startswith(f"fedpdiff: error: {said}")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["simulate", "--list"], ["advise", "--help"]])
def test_a_reader_who_stops_early_is_no_mistake(arguments: list[str], unbuffered: str) -> None:
    """As `head -1` does; the rest of a short text is only written when the program ends."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "fedpdiff", *arguments]
    surroundings = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open(writing, "wb") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, env=surroundings, check=False)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_broken_pipe_of_something_else_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise BrokenPipeError(32, "of a worker")

    monkeypatch.setattr("fedpdiff.cli.policy.run", fail)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        main(["policy", "--images", "5"])


def test_what_nobody_expected_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("fedpdiff.cli.policy.run", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(["policy", "--images", "5"])


def test_a_finished_run_is_not_overwritten(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    assert main(["simulate", "quickstart", "--out", str(tmp_path)]) == 2
    assert "already holds a finished run" in capsys.readouterr().err
