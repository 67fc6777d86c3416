"""Scores as metrics: there and back unchanged, and nothing but known scores in their ranges."""

from __future__ import annotations

import pytest

from fedpdiff.errors import MessageError
from fedpdiff.federation.scores import PFDM_COLUMNS, from_metrics, to_metrics
from fedpdiff.results import GroupScores


def test_scores_survive() -> None:
    scores = {
        "majority": {"local": GroupScores(frechet=1.5, precision=0.5, recall=1.0, accuracy=0.0)},
        "minority": {"pfdm": GroupScores(accuracy=0.25), "oracle": GroupScores(frechet=0.0)},
    }
    metrics = to_metrics(scores)
    assert metrics["minority/pfdm/accuracy"] == 0.25
    assert len(metrics) == 6
    assert from_metrics(metrics, PFDM_COLUMNS) == scores
    assert from_metrics({}, PFDM_COLUMNS) == {}


@pytest.mark.parametrize(
    "metrics",
    [
        {"minority/pfdm": 1.0},
        {"minority/pfdm/frechet/": 1.0},
        {"minority/pfdm/beauty": 1.0},
        {"minority/centralised/frechet": 1.0},
        {"everyone/pfdm/frechet": 1.0},
        {"minority/pfdm/frechet": -1.0},
        {"minority/pfdm/accuracy": 1.5},
        {"": 0.0},
        {str(number): 0.0 for number in range(100)},
    ],
)
def test_other_metrics_are_refused(metrics: dict[str, float]) -> None:
    with pytest.raises(MessageError, match="score"):
        from_metrics(metrics, PFDM_COLUMNS)
