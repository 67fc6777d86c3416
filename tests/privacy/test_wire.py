"""The wire: packing, the best levels, and decoding without bias."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedpdiff.errors import MessageError, PrivacyError
from fedpdiff.privacy.mechanism import STEP
from fedpdiff.privacy.wire import added_noise_variance, decode, encode, encoded_size, quantiser

WIDTHS = pytest.mark.parametrize("bits", [8, 4, 2])
integers = arrays(np.int16, st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 5), st.just(3)))


def _normal(n: int, mean: float = 0.0, sd: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.round((mean + sd * np.random.default_rng(seed).standard_normal(n)) / STEP).astype(np.int16)


@WIDTHS
@given(y=integers)
def test_round_trip_is_the_nearest_level(y: np.ndarray, bits: int) -> None:
    packed = encode(y, bits)
    assert packed.dtype == np.uint8 and packed.shape == (encoded_size(y.size, bits),)
    back = decode(packed, bits, y.shape)
    assert back.dtype == np.float32 and back.shape == y.shape
    thresholds, levels = quantiser(bits)
    expected = levels[np.searchsorted(thresholds, y * STEP, side="right")]
    np.testing.assert_array_equal(back, expected.astype(np.float32))


@given(y=integers)
def test_eight_bits_round_to_half_a_step_within_the_range(y: np.ndarray) -> None:
    back = decode(encode(y, 8), 8, y.shape)
    assert np.all(np.abs(back - np.clip(y * STEP, -6, 6)) <= 6 / 254 + 1e-6)
    np.testing.assert_array_equal(
        encode(np.round(back / STEP).astype(np.int16), 8), encode(y, 8)
    )  # idempotent


@WIDTHS
def test_added_noise_is_uncorrelated_and_as_large_as_stated(bits: int) -> None:
    """A million values with a fixed seed: five standard errors, at most 0.005."""
    y = _normal(1_000_000)
    x, back = y * STEP, decode(encode(y, bits), bits, y.shape)
    error = back - x
    assert abs((error * x).mean()) < 0.005
    assert error.var() == pytest.approx(added_noise_variance(bits), rel=0.02)


def test_stated_variances_are_the_known_ones() -> None:
    """Max 1960, table I: error 0.1175 at 4 levels and 0.009497 at 16."""
    assert added_noise_variance(2) == pytest.approx(0.1175 / (1 - 0.1175), rel=1e-3)
    assert added_noise_variance(4) == pytest.approx(0.009497 / (1 - 0.009497), rel=1e-3)
    assert added_noise_variance(8) < 2e-4


@WIDTHS
@pytest.mark.parametrize("signal", [0.02, 0.1, 0.18])
def test_a_small_signal_keeps_its_size(bits: int, signal: float) -> None:
    """At the paper's t0 = 690, |sqrt(abar) u_j| <= 0.18; within 3 % plus five standard errors."""
    y = _normal(400_000, mean=signal, sd=math.sqrt(1 - 0.008))
    assert decode(encode(y, bits), bits, y.shape).mean() == pytest.approx(
        signal, rel=0.03, abs=5 * 1.07 / 632
    )


def test_eight_bits_hold_a_large_signal_under_little_noise() -> None:
    """alpha_bar = 0.9 and |u_j| = 2: no saturation, no bias, at five standard errors."""
    y = _normal(100_000, mean=2 * math.sqrt(0.9), sd=math.sqrt(0.1))
    back = decode(encode(y, 8), 8, y.shape)
    assert back.mean() == pytest.approx((y * STEP).mean(), abs=5 * 0.0137 / 316)
    assert np.abs(back - y * STEP).max() < 0.024


@WIDTHS
def test_levels_are_symmetric_and_one_step_per_code(bits: int) -> None:
    thresholds, levels = quantiser(bits)
    np.testing.assert_allclose(levels, -levels[::-1], atol=1e-9)
    assert np.all(np.diff(levels) > 0) and len(thresholds) == len(levels) - 1
    assert len(levels) == {8: 255, 4: 16, 2: 4}[bits]


def test_wrong_bytes_are_refused() -> None:
    y = _normal(16).reshape(1, 1, 4, 4)
    with pytest.raises(MessageError, match=r"shape \(8,\)"):
        decode(encode(y, 8), 4, y.shape)
    with pytest.raises(MessageError, match="255"):
        decode(np.full(16, 255, np.uint8), 8, y.shape)
    with pytest.raises(PrivacyError, match="wire-bits"):
        encode(y, 3)
    with pytest.raises(PrivacyError, match="int16"):
        encode(y.astype(np.float32), 8)
