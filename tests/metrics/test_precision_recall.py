"""Improved precision and recall: worked examples, and the naive definition."""

from __future__ import annotations

import numpy as np
import pytest

from fedpdiff.metrics import precision_recall


def naive(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float]:
    """The paper's definition, one pair of points at a time."""

    def covered(points: np.ndarray, centres: np.ndarray) -> float:
        radii = [np.sort(np.linalg.norm(centres - c, axis=1))[k] for c in centres]
        hits = [any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
        return float(np.mean(hits))

    return covered(fake, real), covered(real, fake)


@pytest.mark.parametrize("k", [1, 3])
def test_equals_the_definition(k: int) -> None:
    generator = np.random.default_rng(0)
    real, fake = generator.normal(size=(40, 3)), 0.5 + 1.5 * generator.normal(size=(30, 3))
    assert precision_recall(real, fake, k) == pytest.approx(naive(real, fake, k))


def test_equal_sets_score_one_and_distant_sets_zero() -> None:
    points = np.random.default_rng(0).normal(size=(50, 5))
    assert precision_recall(points, points) == (1.0, 1.0)
    assert precision_recall(points, points + 100) == (0.0, 0.0)


def test_collapse_keeps_precision_and_loses_recall() -> None:
    generator = np.random.default_rng(0)
    real = generator.normal(size=(200, 4))
    precision, recall = precision_recall(real, real[:1] + 1e-3 * generator.normal(size=(200, 4)))
    assert precision == 1.0
    assert recall < 0.05


def test_too_few_images_give_no_number() -> None:
    points = np.random.default_rng(0).normal(size=(50, 5))
    assert precision_recall(points, points[:3]) == (None, None)
    assert precision_recall(points[:3], points) == (None, None)
