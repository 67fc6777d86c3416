"""The terminal table, the table over seeds, and how numbers are written."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.cli import report
from fedpdiff.errors import RunError
from fedpdiff.report import wording
from fedpdiff.report.seeds import seed_gap, seeds_table
from fedpdiff.report.table import markdown, results_table
from fedpdiff.results import ClientResults, GroupScores, Refusal, Results

Build = Callable[..., Path]


def test_the_table_holds_every_client_group_and_method(run_folder: Build) -> None:
    text = results_table(Results.read(run_folder()))
    lines = text.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "client", "classes", "local-only", "PFDM", "oracle hand-off", "centralised", "real floor",
    ]  # fmt: skip
    assert [line.split("|")[2].strip() for line in lines[2:6]] == ["minority", "majority"] * 2
    assert "6.32 (94 %) | 4.10 (90 %)" in lines[2]
    assert len({len(line) for line in lines[:6]}) == 1
    for words in (
        "epsilon = 50 at",
        "Theorem 5.1: 57",
        "its pixels replaced by any others",
        "55 %",
        "26 kB up",
        "2 min 11 s",
    ):
        assert words in text
    assert max(map(len, lines[:6])) < 110


def test_of_many_clients_the_first_are_shown_and_the_mean_of_all(run_folder: Build) -> None:
    results = Results.read(run_folder())
    names = [f"client-{k}" for k in range(1000)]
    many = {"clients": results.clients * 500, "participants": names, "gap_closed": results.gap_closed * 500}
    text = results_table(results.model_copy(update=many))
    rows = [line for line in text.splitlines() if "| minority |" in line]
    means = [line for line in rows if line.startswith("| mean of 1,000 |")]
    pfdm = [client.groups["minority"]["pfdm"].frechet for client in results.clients]
    assert len(means) == 1 and len(rows) == 12 + 1
    assert f"| {wording.number(sum(pfdm) / 2)} (90 %) |" in means[0]
    assert "client-11 and 988 more." in text and "client-12" not in text


def test_what_is_missing_is_a_dash(run_folder: Build) -> None:
    folder = run_folder(pfdm=None)
    results = Results.read(folder)
    refused = [Refusal(site="clinic", phase="upload", reason="stalled")]
    text = results_table(results.model_copy(update={"gap_closed_mean": None, "refused": refused}))
    assert "– (90 %)" in text
    assert "gap closed: no number" in text
    assert "Left out: clinic in upload: stalled" in text


def test_cells_cannot_break_the_table() -> None:
    assert markdown([["a", "b"], ["x|y\nz", ""]])[2] == "| x/y z |   |"


@given(st.floats(1e-6, 1e5))
def test_an_epsilon_is_never_understated(value: float) -> None:
    shown = float(wording.epsilon(value).replace(",", ""))
    assert shown >= value - 1e-8
    assert shown - value <= 1.001e-3


def test_numbers_as_text() -> None:
    assert wording.epsilon(8.774) == "8.774"
    assert wording.epsilon(8.77401) == "8.775"
    assert [wording.number(v) for v in (0.0, 0.01234, 6.244, 138.2, 12345.6, None)] == [
        "0", "0.0123", "6.24", "138", "12,346", "–",
    ]  # fmt: skip
    assert [wording.size(v) for v in (0, 999, 26_112, 3_400_000)] == ["0 B", "999 B", "26 kB", "3.4 MB"]
    assert [wording.duration(v) for v in (2.41, 59.9, 131, 3700)] == [
        "2.4 s",
        "60 s",
        "2 min 11 s",
        "1 h 1 min",
    ]


def test_mean_and_spread_over_seeds(run_folder: Build) -> None:
    folders = [run_folder(f"run-{seed}", seed=seed, pfdm=4.0 + 0.1 * seed, config={}) for seed in (1, 2, 3)]
    text = seeds_table(folders)
    assert "4.20 ± 0.10 (90 %)" in text
    assert "seeds 1, 2, 3" in text
    # local 6.2 (1 + 0.02 s), centralised 1.9 (1 + 0.02 s): means 6.448 and 1.976
    assert f"{(6.448 - 4.2) / (6.448 - 1.976):.0%}".replace("%", " %") in text.splitlines()[2]


def over_seeds(local: list[float | None]) -> list[ClientResults]:
    return [
        ClientResults(
            client=0,
            name="a",
            groups={
                "minority": {
                    "local": GroupScores(frechet=value),
                    "pfdm": GroupScores(frechet=3),
                    "centralised": GroupScores(frechet=2),
                }
            },
        )
        for value in local
    ]


def test_the_gap_over_seeds_is_judged_by_their_spread() -> None:
    assert seed_gap(over_seeds([5, 6, 7])) == pytest.approx(3 / 4)
    assert seed_gap(over_seeds([2, 3, 7])) is None  # mean gap 2, spread 2.6
    assert seed_gap(over_seeds([5, 6, None])) is None
    assert seed_gap(over_seeds([5])) is None


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(run_folder: Build) -> None:
    first = run_folder("one", seed=1)
    with pytest.raises(RunError, match=r"different seeds.*\[1, 1\]"):
        seeds_table([first, first])
    with pytest.raises(RunError, match="differ in more than the seed: epsilon"):
        seeds_table([first, run_folder("two", seed=2, config={"epsilon": 10.0})])


def test_the_command_writes_pages_and_prints_tables(
    run_folder: Build, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpdiff.report.page.draw_figures", lambda run: [])
    parser = argparse.ArgumentParser()
    report.add_parser(parser.add_subparsers())
    folders = [run_folder("one", seed=1), run_folder("two", seed=2)]
    parsed = parser.parse_args(["report", *map(str, folders)])
    assert parsed.run(parsed) == 0
    printed = capsys.readouterr().out
    assert printed.count("report.html") == 2
    assert "over seeds 1, 2" in printed
    assert all((folder / "report.html").is_file() for folder in folders)
