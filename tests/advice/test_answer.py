"""The advice: sane at the edges, consistent with itself, and of the size of what was measured."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from fedpdiff.advice.answer import Outcome, answer, epsilon_for, predict
from fedpdiff.advice.question import Question
from fedpdiff.advice.words import advice_text
from fedpdiff.errors import ConfigError, FedpdiffError
from fedpdiff.results import Results

ROOT = Path(__file__).parents[2]
MNIST = Question(10, 60_000, 5, (28, 28, 1))


def test_one_upload_at_epsilon_10_has_a_signal_to_noise_of_one() -> None:
    """Norm^2 over the variance of one value, with C the typical norm: mu^2 / 4, whatever the shape."""
    for shape in ((8, 8, 1), (28, 28, 1), (64, 64, 3)):
        found = answer(Question(10, 10_000, 5, shape))
        assert found["uploads"]["signal_to_noise"] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("epsilon", [1e-3, 1, 100, 1e6])
@pytest.mark.parametrize("minority", [0, 1, 5, 6000])
def test_every_answer_is_whole(epsilon: float, minority: int) -> None:
    found = answer(Question(epsilon, 60_000, minority, (28, 28, 1)))
    json.dumps(found, allow_nan=False)
    text = advice_text(found)
    assert len(text.splitlines()) < 45 and max(map(len, text.splitlines())) <= 110
    assert not re.search(r"nan|None|inf\b|-0 %", text)
    assert (found["recognised"] is None) == (minority > 0)
    assert (found["t0"] is None) == (epsilon < 1)
    if epsilon < 0.1:
        assert found["verdict"] == "no" and "a run would be refused" in text


def test_verdicts_follow_budget_need_and_images() -> None:
    def word(**changes: float) -> str:
        return predict(
            Question(**({"epsilon": 60, "images": 1006, "minority": 8, "shape": (8, 8, 1)} | changes))
        ).verdict

    assert word() == "yes"
    assert word(epsilon=3) == "no"
    assert word(images=90) != "yes"
    many = predict(Question(60, 100_000, 5000, (8, 8, 1)))
    assert (many.verdict, many.limit) == ("no", "need")
    assert predict(MNIST).verdict == "yes"
    assert predict(Question(1, 10**7, 0, (4, 4, 1), classes=100)).limit == "personal"
    assert predict(Question(10, 90, 8, (8, 8, 1))).limit == "uploads"


def test_what_it_says_would_change_it_does() -> None:
    asked = Question(10, 1006, 8, (8, 8, 1))
    found = answer(asked)
    needed = found["epsilon_for"]["yes"]
    assert found["verdict"] == "no" and 10 < needed < 60
    assert predict(replace(asked, epsilon=1.02 * needed)).verdict == "yes"
    assert predict(replace(asked, epsilon=0.9 * needed)).verdict != "yes"
    assert f"clearly from {needed:g}" in " ".join(advice_text(found).split())
    assert epsilon_for(Question(10, 100_000, 5000, (8, 8, 1)), "a little") is None
    own = next(row for row in found["by_epsilon"] if row["epsilon"] == 10)
    assert own["gain"] == found["gain"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0}, "epsilon is 0, but must be a number above 0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": float("inf")}, "epsilon is inf"),
        ({"delta": 1}, "delta is 1, but must lie strictly between"),
        ({"shape": (3, 28, 1)}, "shape is 3x28x1, but sides must be 4 to 512"),
        ({"shape": (28, 28, 2)}, "channels 1 or 3"),
        ({"minority": -1}, "minority is -1, but must be"),
        ({"images": 3}, "images is 3, but 10 classes with 5 images of each"),
        ({"images": 0, "minority": 0}, "images is 0, but 10 classes"),
        ({"classes": 1}, "classes is 1, but must be at least 2"),
        ({"clients": 0}, "clients is 0, but must be at least 2"),
    ],
)
def test_silly_questions_are_refused(changes: dict, message: str) -> None:
    asked = {"epsilon": 10, "images": 1000, "minority": 5, "shape": (28, 28, 1)} | changes
    with pytest.raises(FedpdiffError, match=re.escape(message)):
        Question(**asked)


def test_the_most_minority_images_are_those_of_equal_classes() -> None:
    assert predict(Question(10, 60_000, 6000, (28, 28, 1))).limit == "need"
    with pytest.raises(ConfigError, match="make 60010"):
        Question(10, 60_000, 6001, (28, 28, 1))


@pytest.mark.parametrize(("images", "share"), [(3, 0.6), (8, 0.8), (20, 10 / 11)])
def test_of_few_images_networks_reach_less(images: int, share: float) -> None:
    outcome = predict(Question(30, 1006, images, (8, 8, 1)))
    assert outcome.gain == pytest.approx(share * (outcome.best_gain or 0))
    assert (outcome.gap_closed or 0) < share


@pytest.mark.parametrize(("reached", "limit"), [(0.6, "personal"), (1.0, "uploads")])
def test_what_limits_is_judged_by_what_networks_reach(reached: float, limit: str) -> None:
    """Uploads without end would make a little of a little, or a yes."""
    assert Outcome(gain=0.08, reached=reached, best_endless=0.15, cost=0.5).limit == limit


def test_it_is_of_the_size_of_what_the_quickstart_measured() -> None:
    """Committed runs of three seeds, two clients: 1,006 digits, epsilon 60, 8 images of a rare class."""
    reductions, oracles = [], []
    for path in sorted((ROOT / "simulations" / "results" / "quickstart").glob("seed-*.json")):
        for client in Results.model_validate_json(path.read_text()).clients:
            local = client.frechet("minority", "local")
            assert local
            reductions.append(1 - (client.frechet("minority", "pfdm") or 0) / local)
            oracles.append(1 - (client.frechet("minority", "oracle") or 0) / local)
    assert len(reductions) == 6
    outcome = predict(Question(60, 1006, 8, (8, 8, 1)))
    assert outcome.gain == pytest.approx(statistics.fmean(reductions), abs=0.05)
    assert pytest.approx(statistics.fmean(reductions) / (outcome.best_gain or 1), abs=0.15) == outcome.reached
    assert 0.5 < statistics.fmean(oracles) / (outcome.best_oracle or 1) < 1.05
