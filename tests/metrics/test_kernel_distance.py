"""KID: unbiased, by its definition, and zero for equal distributions."""

from __future__ import annotations

import numpy as np
import pytest

from fedpdiff.metrics import kernel_distance

GENERATOR = np.random.default_rng(4)


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    xx = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    return float(xx + yy - 2 * np.mean([k(a, b) for a in x for b in y]))


def test_it_is_what_the_definition_says() -> None:
    x, y = GENERATOR.normal(size=(7, 3)), 1 + GENERATOR.normal(size=(9, 3))
    assert kernel_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-10)
    assert kernel_distance(x, y) == pytest.approx(kernel_distance(y, x), rel=1e-10)


def test_many_images_are_summed_in_parts() -> None:
    x, y = GENERATOR.normal(size=(1500, 2)), GENERATOR.normal(size=(1100, 2))
    grams = [(one @ other.T / 2 + 1) ** 3 for one, other in ((x, x), (y, y), (x, y))]
    within = [(g.sum() - np.trace(g)) / (len(g) * (len(g) - 1)) for g in grams[:2]]
    assert kernel_distance(x, y) == pytest.approx(sum(within) - 2 * grams[2].mean(), abs=1e-9)


def test_it_does_not_depend_on_the_number_of_images() -> None:
    """Mean over 400 pairs of sets of one distribution: 0 within 5 standard errors (false alarms: 6e-7)."""
    generator = np.random.default_rng(1)
    for count in (5, 40):
        values = [
            kernel_distance(generator.normal(size=(count, 4)), generator.normal(size=(count, 4)))
            for _ in range(400)
        ]
        assert abs(np.mean(values)) < 5 * np.std(values) / 20
        shifted = [
            kernel_distance(generator.normal(size=(count, 4)), 0.7 + generator.normal(size=(count, 4)))
            for _ in range(400)
        ]
        assert np.mean(shifted) > 5 * np.std(shifted) / 20


def test_one_image_is_too_few() -> None:
    assert kernel_distance(np.zeros((1, 3)), np.zeros((5, 3))) is None
    assert kernel_distance(np.zeros((5, 3)), np.zeros((1, 3))) is None
