"""``fedpdiff privacy``: a statement, or the frontier of a data set with its figure."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from fedpdiff.cli import main


def test_t0_gives_epsilon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "--t0", "690", "--json"]) == 0
    statement = json.loads(capsys.readouterr().out)
    assert (statement["epsilon"], statement["clip"], statement["delta"]) == (8.774, 10.0, 1e-5)


def test_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "--t0", "500", "--delta", "1e-3"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"Warning: epsilon 34\.\d+ for one image is above 20", text)
    assert "Warning: delta 0.001 is large" in text
    assert main(["privacy", "--t0", "690"]) == 0
    assert "Warning" not in capsys.readouterr().out


def test_the_frontier_of_the_default_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "frontier.png"
    assert main(["privacy", "--frontier", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "Unit: one image, its pixels replaced by any others, its label" in text
    assert "digits, 8x8, 1 channel; centre: public-mean; C = 4.268 (public-median)." in text
    assert "local-only" not in text
    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "3", "10", "30", "100"]
    assert [row[1] == "!" for row in rows] == [False, False, False, True, True]
    assert f"Figure: {out}" in text
    assert matplotlib.image.imread(out).std() > 0.05


def test_settings_and_short_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--epsilons", "5,10", "--clip", "10", "--delta", "1e-6", "--set", "centre=none", "--json"]
    out = tmp_path / "frontier.png"
    assert main(["privacy", "--frontier", *options, "--images", "60000", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)  # the line about the figure is not part of it
    assert [row["t0"] for row in found["rows"]] == [767, 687]  # calculated independently
    assert (found["clip_rule"], found["delta"], found["cautions"]) == ("fixed", 1e-6, [])
    assert out.stat().st_size > 0


def test_data_by_a_relative_path(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "mine" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    arguments = ["privacy", "--frontier", "--data", "mine", "--set", "partitioner=iid", "--epsilons", "5"]
    assert main(arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f'Only you can know: 20 % of data = "{tmp_path / "mine"}" (a local path)' in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frontier", "--epsilon", "5"], None),
        (["--epsilon", "5", "--data", "x", "--out", "y.png"], "--data, --out: only with --frontier"),
        (["--frontier", "--per-pixel", "1"], "--per-pixel does not go with --frontier"),
        (["--frontier", "--epsilons", "1;2"], "--epsilons 1;2: must be numbers with commas"),
        (["--frontier", "--epsilons", "0"], "a candidate epsilon is 0, but must be a number above 0"),
        (["--frontier", "--out", "figure.pdf"], "--out figure.pdf: must end in .png"),
        (["--frontier", "--images", "0"], "--images 0: must be at least 1"),
        (["--frontier", "--set", "epsilom=5"], "did you mean epsilon?"),
        (["--frontier", "--epsilons", "0.001", "--out", "never.png"], "none of these budgets can be reached"),
    ],
)
def test_mistakes(arguments: list[str], message: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if message is None:  # argparse's own
        with pytest.raises(SystemExit):
            main(["privacy", *arguments])
        return
    assert main(["privacy", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("never.png").exists()
