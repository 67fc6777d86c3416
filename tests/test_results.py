"""results.json: stable keys, whole files, and the headline figure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.errors import RunError
from fedpdiff.results import (
    CertificateSummary,
    ClientResults,
    GroupScores,
    Refusal,
    Results,
    gap_closed,
    mean_gap,
)


def client(local: float | None, pfdm: float | None, centralised: float | None) -> ClientResults:
    scores = {"local": local, "pfdm": pfdm, "centralised": centralised}
    methods = {name: GroupScores(frechet=value, accuracy=0.5) for name, value in scores.items()}
    return ClientResults(client=0, name="site", classes={"minority": [5, 6]}, groups={"minority": methods})


def example() -> Results:
    return Results(
        seed=1,
        release_noise="secure",
        privacy={"epsilon": 50.0, "delta": 1e-5},
        feature_space="classifier:1a2b3c4d",
        class_names=["a", "b"],
        clients=[client(10, 6, 2)],
        gap_closed=[0.5],
        gap_closed_mean=0.5,
        gap_spread=[1.0],
        bytes_up=[100],
        bytes_down=[200],
        seconds={"upload": 1.5},
        participants=["site"],
        refused=[Refusal(site="other", phase="upload", reason="noise too small")],
        notes=["local-only is the personal network"],
    )


def test_written_and_read_again(tmp_path) -> None:
    example().write(tmp_path / "run")
    assert Results.read(tmp_path / "run") == example()
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["results.json"]


def test_the_documented_keys() -> None:
    found = json.loads(example().model_dump_json())
    assert found["clients"][0]["client"] == 0
    assert found["clients"][0]["groups"]["minority"]["pfdm"] == {
        "frechet": 6.0,
        "precision": None,
        "recall": None,
        "accuracy": 0.5,
        "kid": None,
        "utility": None,
        "utility_added": None,
    }
    assert {"privacy", "gap_closed", "bytes_up", "bytes_down", "seconds", "format_version"} <= set(found)


def test_every_key_is_documented(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "docs" / "results.md").read_text()
    for model in (Results, ClientResults, GroupScores, Refusal, CertificateSummary):
        for key in model.model_fields:
            assert f"`{key}`" in text, f"docs/results.md does not explain {key}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_distance_is_a_number(value: float) -> None:
    with pytest.raises(ValueError, match="frechet"):
        GroupScores(frechet=value)


def test_a_missing_file_says_what_is_there(tmp_path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        Results.read(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is empty"):
        Results.read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"it holds config\.json"):
        Results.read(tmp_path)
    (tmp_path / "error.txt").write_text("why")
    with pytest.raises(RunError, match="did not finish"):
        Results.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"format_version": 2}'])
def test_another_format_is_refused(tmp_path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(RunError, match="results format 1"):
        Results.read(tmp_path)


def test_the_gap_closed() -> None:
    assert gap_closed(client(10, 6, 2), spread=1) == pytest.approx(0.5)
    assert gap_closed(client(10, 12, 2), spread=1) == pytest.approx(-0.25)


@pytest.mark.parametrize("spread", [8.0, 9.0, None])
def test_no_gap_is_stated_within_the_spread(spread: float | None) -> None:
    assert gap_closed(client(10, 6, 2), spread) is None


@given(st.sampled_from([(None, 1, 1), (3, None, 1), (3, 1, None), (1, 1, 1), (1, 1, 3)]))
def test_no_gap_without_its_three_distances(distances: tuple[float | None, ...]) -> None:
    assert gap_closed(client(*distances), spread=0) is None


def test_the_mean_is_over_clients_with_a_number() -> None:
    assert mean_gap([0.5, None, 0.7]) == pytest.approx(0.6)
    assert mean_gap([None]) is None
