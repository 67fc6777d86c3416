"""Frechet distance against closed forms, and the numbers it refuses to give."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_fid.fid_score import calculate_frechet_distance

from fedpdiff.metrics import frechet


def whitened(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Features whose sample mean is exactly 0 and sample covariance exactly the identity."""
    raw = generator.normal(size=(count, dimension))
    raw -= raw.mean(axis=0)
    return raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False)).T)


def test_equal_sets_are_at_distance_zero() -> None:
    features = np.random.default_rng(0).normal(size=(100, 8))
    assert frechet(features, features) == pytest.approx(0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(0, 5), scale=st.floats(0.1, 5), seed=st.integers(0, 1000))
def test_closed_form_for_a_shifted_and_scaled_gaussian(shift: float, scale: float, seed: int) -> None:
    # |m|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) with S1 = I and S2 = scale^2 I is d (shift^2 + (1 - scale)^2).
    generator = np.random.default_rng(seed)
    one, other = whitened(generator, 60, 6), whitened(generator, 80, 6)
    expected = 6 * (shift**2 + (1 - scale) ** 2)
    assert frechet(one, scale * other + shift) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_is_pytorch_fids_number() -> None:
    generator = np.random.default_rng(1)
    one, other = generator.normal(size=(200, 16)), 0.5 + generator.normal(size=(150, 16)) ** 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = calculate_frechet_distance(
            one.mean(axis=0), np.cov(one, rowvar=False), other.mean(axis=0), np.cov(other, rowvar=False)
        )
    assert frechet(one, other) == pytest.approx(expected, rel=1e-12)
    assert frechet(other, one) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("real", "fake"), [(8, 100), (100, 8), (0, 100), (100, 0)])
def test_too_few_images_give_no_number(real: int, fake: int) -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(real, 8)), generator.normal(size=(fake, 8))
    assert frechet(one, other) is None


def test_a_collapsed_model_gets_a_number_without_noise_on_the_terminal(capsys) -> None:
    generator = np.random.default_rng(0)
    real = generator.normal(size=(300, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collapsed = frechet(real, np.repeat(real[:3], 40, axis=0))
        constant = frechet(real, np.zeros((100, 64)))
    assert collapsed is not None and collapsed > 10
    assert constant == pytest.approx(float((real.mean(0) ** 2).sum() + real.var(0, ddof=1).sum()), rel=1e-3)
    assert capsys.readouterr().out == ""
