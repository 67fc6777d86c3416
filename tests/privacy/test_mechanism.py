"""The mechanism: the clip, the exact integer norm, and an audit of what really comes out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtri
from scipy.stats import beta, norm

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import mechanism
from fedpdiff.privacy.ball import choose_centre, choose_radius
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.mechanism import STEP, _signal, clip, decode_integers, largest_norm, release_integers

images = arrays(np.float32, (3, 1, 5, 5), elements=st.floats(-1, 1, width=32))
centres = arrays(np.float32, (1, 5, 5), elements=st.floats(-1, 1, width=32))


def _norms(u: np.ndarray) -> np.ndarray:
    return np.linalg.norm(u.reshape(len(u), -1), axis=1)


@given(x=images, c=centres, radius=st.floats(0.05, 20))
def test_clip_is_the_projection(x: np.ndarray, c: np.ndarray, radius: float) -> None:
    u = clip(x, c, radius)
    assert np.all(_norms(u) <= radius * (1 + 1e-12))
    again = clip(u / 2, 0.0, radius / 2)  # halved, since |x - c| may reach 2 and clip takes pixels
    np.testing.assert_allclose(again, u / 2, rtol=1e-12, atol=1e-15)  # idempotent
    inside = _norms(x - c.astype(np.float64)) <= radius
    np.testing.assert_array_equal(u[inside], (x - c.astype(np.float64))[inside])


@given(x=images, c=centres, radius=st.floats(0.01, 20), alpha_bar=st.floats(1e-5, 0.9999))
def test_the_integer_norm_never_exceeds_the_limit(
    x: np.ndarray, c: np.ndarray, radius: float, alpha_bar: float
) -> None:
    m = _signal(clip(x, c, radius), radius, alpha_bar)
    for image in m:
        exact = sum(int(v) ** 2 for v in image.ravel())
        assert math.sqrt(exact) <= math.sqrt(alpha_bar) * radius / STEP


@pytest.mark.parametrize("radius", [1.0, 2.0, 0.5])
def test_the_norm_holds_where_rounding_loses_nothing(radius: float) -> None:
    """sqrt(abar) C / step is an integer here and one pixel holds it all; the limit is just below it."""
    u = np.zeros((1, 1, 2, 2))
    u[0, 0, 0, 0] = -radius
    m = _signal(u, radius, 0.25)
    assert 0 < -m.min() <= radius * 2048


def test_no_signal_in_the_zero_image_and_nothing_clipped_by_the_largest_radius() -> None:
    assert not _signal(np.zeros((2, 1, 3, 3)), 1.0, 0.5).any()
    x = np.sign(np.random.default_rng(0).normal(size=(4, 3, 6, 6)))
    c = np.full((3, 6, 6), 0.3)
    np.testing.assert_array_equal(clip(x, c, largest_norm(c, (3, 6, 6))), x - c)
    assert largest_norm(0.0, (1, 28, 28)) == pytest.approx(28)


@pytest.mark.parametrize(
    ("x", "centre", "radius"),
    [
        (np.full((1, 1, 2, 2), np.nan), 0.0, 1.0),
        (np.full((1, 1, 2, 2), 255.0), 0.0, 1.0),
        (np.zeros((1, 2, 2)), 0.0, 1.0),
        (np.zeros((1, 1, 2, 2)), np.zeros((3, 2, 2)), 1.0),
        (np.zeros((1, 1, 2, 2)), np.zeros(5), 1.0),
        (np.zeros((1, 1, 2, 2)), math.inf, 1.0),
        (np.zeros((1, 1, 2, 2)), 0.0, 0.0),
        (np.zeros((1, 1, 2, 2)), 0.0, math.nan),
    ],
)
def test_wrong_input_is_refused(x: np.ndarray, centre: object, radius: float) -> None:
    with pytest.raises(PrivacyError):
        release_integers(x, centre, radius, 0.5, SecureNoise())


@settings(max_examples=20, deadline=None)
@given(alpha_bar=st.sampled_from([0.9999, 0.9, 0.5, 0.1, 0.008]), value=st.sampled_from([-1.0, 1.0]))
def test_int16_is_wide_enough_for_any_signal(alpha_bar: float, value: float) -> None:
    """The largest signal, 2 sqrt(abar), and its mean survive; six standard errors, false-alarm rate 2e-9."""
    x = np.full((50, 1, 8, 8), value, np.float32)
    y = decode_integers(
        release_integers(x, -value, largest_norm(-value, (1, 8, 8)), alpha_bar, SecureNoise())
    )
    sd = math.sqrt(1 - alpha_bar)
    assert abs(y.mean() - 2 * value * math.sqrt(alpha_bar)) < 6 * sd / math.sqrt(y.size) + STEP
    assert np.abs(y).max() < 32767 * STEP


def test_decoded_values_are_the_forward_process() -> None:
    """Mean of each pixel, and variance, within six standard errors: false-alarm rate 4e-8."""
    x = np.random.default_rng(1).uniform(-1, 1, (1, 1, 4, 4)).astype(np.float32).repeat(30_000, axis=0)
    y = decode_integers(release_integers(x, 0.1, 2.0, 0.3, SecureNoise())).astype(np.float64)
    u = clip(x[:1], 0.1, 2.0)[0]
    error = y.mean(axis=0) - math.sqrt(0.3) * u
    assert np.abs(error).max() < 6 * math.sqrt(0.7 / 30_000) + STEP
    residual = y - math.sqrt(0.3) * u
    assert abs((residual**2).mean() / 0.7 - 1) < 6 * math.sqrt(2 / y.size)


def _audit(release: Callable[[np.ndarray], np.ndarray], n: int = 20_000) -> tuple[float, float]:
    """Simultaneous 99.9 % bounds on mu, from the worst pair (white against black) and the best statistic.

    Clopper-Pearson intervals at three thresholds fixed in advance, with Bonferroni, turned into mu by the
    Gaussian trade-off curve.
    """
    pair = [np.full((n, 1, 8, 8), value, np.float32) for value in (-1, 1)]
    scores = [decode_integers(release(x)).reshape(n, -1).sum(axis=1) / 8 for x in pair]
    alpha, lo, hi = 1e-3 / 6, -math.inf, math.inf
    for threshold in (-0.5, 0.0, 0.5):
        false, true = ((s > threshold).sum() for s in scores)
        low, high = ndtri(beta.ppf(alpha, true, n - true + 1)), ndtri(beta.ppf(1 - alpha, true + 1, n - true))
        f_low, f_high = (
            ndtri(beta.ppf(alpha, false, n - false + 1)),
            ndtri(beta.ppf(1 - alpha, false + 1, n - false)),
        )
        lo, hi = max(lo, low - f_high), min(hi, high - f_low)
    return lo, hi


C, ALPHA_BAR = 5.0, 0.03  # mu = 1.76


def _honest(x: np.ndarray) -> np.ndarray:
    return release_integers(x, 0.0, C, ALPHA_BAR, SecureNoise())


def test_audit_meets_the_promised_mu() -> None:
    """Never above, and nearly met: neither over-noised nor clipped twice.

    Bonferroni promises 1e-3; but an interval only misses when both of its rates err together, which happens
    in 7e-7 of the runs (exact binomials). That its lower end falls below 0.9 mu is rarer still.
    """
    lo, hi = _audit(_honest)
    mu = mu_of(ALPHA_BAR, C)
    assert lo <= mu
    assert hi >= 0.97 * mu
    assert lo >= 0.9 * mu


def test_audit_finds_mutations(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = mechanism.rounded_gaussian
    mu = mu_of(ALPHA_BAR, C)
    # The images' norm is 8: released without a clip to 5 they are 1.6 times as far apart.
    assert _audit(lambda x: release_integers(x, 0.0, 8.0, ALPHA_BAR, SecureNoise()))[0] > mu
    monkeypatch.setattr(mechanism, "rounded_gaussian", lambda s, n, src: exact(s / 1.2, n, src))
    assert _audit(_honest)[0] > mu
    monkeypatch.setattr(mechanism, "rounded_gaussian", lambda s, n, src: np.rint(1.2 * exact(s, n, src)))
    assert _audit(_honest)[1] < 0.97 * mu


def test_audit_finds_noise_scaled_by_b_squared(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = mechanism.rounded_gaussian
    alpha_bar, radius = 0.5, 1.0  # b^2 differs from b only where the noise is not close to 1
    release = lambda x: release_integers(x, 0.0, radius, alpha_bar, SecureNoise())  # noqa: E731
    assert _audit(release)[0] <= mu_of(alpha_bar, radius)
    monkeypatch.setattr(mechanism, "rounded_gaussian", lambda s, n, src: exact(s * s * STEP, n, src))
    assert _audit(release)[0] > mu_of(alpha_bar, radius)


def _largest_row_correlation(y: np.ndarray) -> float:
    """Bonferroni p-value of the largest correlation of two rows of pure noise."""
    rows = y.reshape(len(y), -1).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    correlation = rows @ rows.T
    np.fill_diagonal(correlation, 0)
    pairs = len(y) * (len(y) - 1) / 2
    return float(2 * pairs * norm.sf(np.abs(correlation).max() * math.sqrt(rows.shape[1])))


def test_no_two_images_share_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """False-alarm rate 1e-7: the normal tail lies above that of a correlation of long rows."""
    x = np.zeros((300, 1, 28, 28), np.float32)
    assert _largest_row_correlation(release_integers(x, 0.0, 1.0, 0.1, SecureNoise())) > 1e-7
    exact = mechanism.rounded_gaussian

    def shared(sigma: float, count: int, source: SecureNoise) -> np.ndarray:
        return np.tile(exact(sigma, 100 * 784, source), 3)[:count]

    monkeypatch.setattr(mechanism, "rounded_gaussian", shared)
    assert _largest_row_correlation(release_integers(x, 0.0, 1.0, 0.1, SecureNoise())) < 1e-7


def test_two_releases_differ() -> None:
    x = np.zeros((2, 1, 8, 8), np.float32)
    assert not np.array_equal(_honest(x), _honest(x))


def test_centre_and_radius_from_public_images() -> None:
    public = np.random.default_rng(0).uniform(-1, 0, (101, 1, 4, 4)).astype(np.float32)
    mean = choose_centre("public-mean", public, (1, 4, 4))
    np.testing.assert_allclose(mean, public.mean(axis=0), atol=1e-6)
    scalar = choose_centre("public-scalar", public, (1, 4, 4))
    assert (
        scalar.shape == (1, 4, 4)
        and np.ptp(scalar) == 0
        and scalar[0, 0, 0] == pytest.approx(public.mean(), abs=1e-6)
    )
    assert not choose_centre("none", None, (1, 4, 4)).any()
    assert choose_radius("public-median", 0.0, public, mean) == pytest.approx(
        np.median(_norms(public - mean))
    )
    assert choose_radius("fixed", 3.5, None, mean) == 3.5
    assert choose_radius("none", 0.0, None, np.zeros((1, 4, 4), np.float32)) == 4.0
    with pytest.raises(PrivacyError, match="public-fraction"):
        choose_centre("public-mean", None, (1, 4, 4))
