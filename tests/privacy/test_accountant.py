"""Accounting: the published values, an independent implementation, and properties."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import ceilings
from fedpdiff.privacy.accountant import (
    epsilon_from_mu,
    log_delta,
    mu_from_epsilon,
    round_up,
    theorem_5_1_epsilon,
)
from fedpdiff.privacy.calibration import mu_of, smallest_t0

LINEAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
MU = np.geomspace(1e-3, 100, 11)
DELTA = [0.1, 1e-3, 1e-5, 1e-8, 1e-12]


def test_the_papers_setting() -> None:
    mu = mu_of(LINEAR[690], 10)
    assert mu == pytest.approx(1.7978095, abs=1e-7)
    assert round_up(epsilon_from_mu(mu, 1e-5)) == 8.774
    assert round_up(theorem_5_1_epsilon(mu, 1e-5)) == 10.243


@pytest.mark.parametrize("delta", DELTA)
@pytest.mark.parametrize("mu", MU)
def test_agrees_with_dp_accounting(mu: float, delta: float) -> None:
    reference = dp_accounting.get_epsilon_gaussian(1 / mu, delta)
    assert epsilon_from_mu(mu, delta) == pytest.approx(reference, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("mu", [200.0, 1e3, 1e4])
def test_very_large_mu_does_not_overflow(mu: float) -> None:
    epsilon = epsilon_from_mu(mu, 1e-5)
    assert mu * mu / 2 < epsilon < theorem_5_1_epsilon(mu, 1e-5)
    assert log_delta(epsilon, mu) == pytest.approx(math.log(1e-5), abs=1e-6)


@given(mu=st.floats(1e-3, 300), log10_delta=st.floats(-12, -1))
def test_inverse_and_order(mu: float, log10_delta: float) -> None:
    delta = 10**log10_delta
    epsilon = epsilon_from_mu(mu, delta)
    assert 0 <= epsilon <= theorem_5_1_epsilon(mu, delta)
    assert epsilon_from_mu(1.01 * mu, delta) >= epsilon
    if epsilon > 0:
        assert mu_from_epsilon(epsilon, delta) == pytest.approx(mu, rel=1e-6)


@given(value=st.floats(0, 1e6), digits=st.integers(0, 5))
def test_round_up_never_understates(value: float, digits: int) -> None:
    rounded = round_up(value, digits)
    assert value <= rounded <= value + 1.001 * 10**-digits
    assert round_up(rounded, digits) == rounded


@pytest.mark.parametrize(
    ("clip", "epsilon", "delta", "t0"),
    [(10, 20, 1e-5, 591), (10, 10, 1e-5, 675), (10, 8, 1e-5, 701), (10, 1, 1e-5, 924), (10, 10, 1e-6, 687),
     (1, 10, 1e-5, 260), (28, 10, 1e-5, 812)],
)  # fmt: skip
def test_smallest_t0(clip: float, epsilon: float, delta: float, t0: int) -> None:
    assert smallest_t0(LINEAR, clip, epsilon, delta) == t0
    assert epsilon_from_mu(mu_of(LINEAR[t0], clip), delta) <= epsilon
    assert epsilon_from_mu(mu_of(LINEAR[t0 - 1], clip), delta) > epsilon


@given(clip=st.floats(0.5, 20), epsilon=st.floats(2, 1000))
def test_smallest_t0_is_monotone(clip: float, epsilon: float) -> None:
    t0 = smallest_t0(LINEAR, clip, epsilon, 1e-5)
    assert smallest_t0(LINEAR, clip, 1.3 * epsilon, 1e-5) <= t0
    assert smallest_t0(LINEAR, clip / 1.3, epsilon, 1e-5) <= t0
    assert smallest_t0(LINEAR, clip, epsilon, 1e-4) <= t0


def test_unreachable_budget_says_what_is_reached() -> None:
    with pytest.raises(PrivacyError, match=r"epsilon is 0\.01.* only 0\.44"):
        smallest_t0(LINEAR, 10, 0.01, 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_delta_out_of_range(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta is"):
        epsilon_from_mu(1.0, delta)


@pytest.mark.parametrize(
    ("alpha_bar", "clip"), [(1.0, 10), (-0.1, 10), (0.5, 0), (0.5, math.inf), (math.nan, 1)]
)
def test_no_noise_or_no_clip(alpha_bar: float, clip: float) -> None:
    with pytest.raises(PrivacyError):
        mu_of(alpha_bar, clip)


def test_the_levels_must_begin_at_one() -> None:
    with pytest.raises(PrivacyError, match="begin with 1"):
        smallest_t0(LINEAR[1:], 10, 10, 1e-5)


def test_ceilings() -> None:
    mu = mu_of(LINEAR[690], 10)
    assert ceilings.auc(mu) == pytest.approx(0.898, abs=5e-4)
    assert ceilings.tpr_at_fpr(mu, 0.01) == pytest.approx(0.299, abs=5e-4)
    assert ceilings.reidentification(mu, 100) == pytest.approx(0.077, abs=5e-4)
    assert ceilings.reidentification(0.0, 7) == pytest.approx(1 / 7)
    assert ceilings.auc(0.0) == ceilings.balanced_accuracy(0.0) == 0.5
