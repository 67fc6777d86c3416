"""The statistics behind the advice, computed again from scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedpdiff.advice.spectrum import BETWEEN, DEVIATION, digits_like, radius


@pytest.fixture(scope="module")
def measured() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return norms around the mean image, and variance within and between classes by direction over C^2."""
    digits = load_digits()
    pixels, labels = digits.images.reshape(len(digits.images), -1) / 8 - 1, digits.target
    centred = pixels - pixels.mean(axis=0)
    means = np.array([centred[labels == k].mean(axis=0) for k in range(10)])
    rest = centred - means[labels]
    values, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
    between = np.square(means[labels] @ vectors[:, ::-1]).mean(axis=0)
    power = np.square(centred).sum(axis=1).mean()
    return np.linalg.norm(centred, axis=1), values[::-1] / power, between / power


def test_the_digits_have_this_variance(measured: tuple[np.ndarray, ...]) -> None:
    norms, within, between = measured
    assert between.sum() == pytest.approx(BETWEEN, abs=0.005)
    assert within.sum() + between.sum() == pytest.approx(1)
    assert np.sqrt(np.square(norms).mean() / 64) == pytest.approx(DEVIATION, abs=0.005)
    assert np.median(norms) == pytest.approx(radius(64), rel=0.02)


def test_the_power_law_is_that_of_the_digits(measured: tuple[np.ndarray, ...]) -> None:
    _, within, between = measured
    model = digits_like(64, 10)
    assert model.within[0] == pytest.approx(within[0], rel=0.06)
    assert model.directions == pytest.approx(within.sum() ** 2 / np.square(within).sum(), rel=0.12)
    assert np.abs(np.cumsum(model.within) - np.cumsum(within)).max() < 0.06
    assert between[:18].sum() / between.sum() == pytest.approx(0.87, abs=0.01)
    assert np.abs(np.cumsum(model.between) - np.cumsum(between)).max() < 0.1


@pytest.mark.parametrize(("values", "classes"), [(16, 2), (64, 10), (3072, 10), (100, 200)])
def test_shares_sum_to_one(values: int, classes: int) -> None:
    spectrum = digits_like(values, classes)
    assert len(spectrum.within) == len(spectrum.between) == values
    assert spectrum.within.sum() + spectrum.between.sum() == pytest.approx(1)
    assert (np.diff(spectrum.within) < 0).all() and (spectrum.between >= 0).all()
