"""The noise: exactly round(sigma Z), every stage of the lazy comparison, and its randomness."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from scipy.stats import chisquare, norm

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import gaussian_noise
from fedpdiff.privacy.gaussian_noise import SecureNoise, SeededNoise, rounded_gaussian

FALSE_ALARM = 1e-7


class FixedBytes:
    """Gives prepared bytes, to steer the sampler into its rare stages."""

    kind = "seeded"
    private = False

    def __init__(self, *parts: bytes) -> None:
        self.left = list(parts)

    def read(self, count: int) -> bytes:
        part = self.left.pop(0)
        assert len(part) == count
        return part


def _goodness_of_fit(sample: np.ndarray, sigma: float) -> float:
    """p-value of a chi-square test against the exact distribution, tails pooled."""
    edge = int(3 * sigma) + 1
    step = max(1, int(sigma / 8))
    edges = np.arange(-edge, edge + 1, step) + 0.5
    counts = np.bincount(np.searchsorted(edges, sample), minlength=len(edges) + 1)
    expected = np.append(np.diff(norm.cdf(edges / sigma), prepend=0.0), norm.sf(edges[-1] / sigma))
    return float(chisquare(counts, expected * len(sample)).pvalue)


@pytest.mark.parametrize("sigma", [0.7, 26.0, 1300.3, 4079.55])
def test_distribution(sigma: float) -> None:
    """False-alarm rate 1e-7 for each sigma; the mutation is a sigma 2 % too small (missed as rarely)."""
    sample = rounded_gaussian(sigma, 400_000, SecureNoise())
    assert _goodness_of_fit(sample, sigma) > FALSE_ALARM
    assert _goodness_of_fit(rounded_gaussian(0.98 * sigma, 400_000, SecureNoise()), sigma) < FALSE_ALARM


def test_variance_is_close_and_mean_is_zero() -> None:
    """Six standard errors: false-alarm rate 2e-9 each."""
    n, sigma = 3_000_000, 4000.0
    z = rounded_gaussian(sigma, n, SecureNoise()) / sigma
    assert abs(z.mean()) < 6 / math.sqrt(n)
    assert abs((z * z).mean() - 1) < 6 * math.sqrt(2 / n)


@pytest.mark.parametrize("sigma", [3.0, 4079.55])
def test_boundaries_are_far_more_exact_than_the_margin(sigma: float) -> None:
    boundaries = gaussian_noise._tables(sigma).boundaries[1:-1]
    with mpmath.workprec(160):
        for k in np.unique(np.linspace(0, len(boundaries) - 1, 60).astype(int)):
            exact = mpmath.erf((int(k) + mpmath.mpf(0.5)) / (mpmath.mpf(sigma) * mpmath.sqrt(2)))
            assert abs(mpmath.ldexp(int(boundaries[k]), -62) - exact) < gaussian_noise._MARGIN / 500


@pytest.mark.parametrize("sigma", [0.4, 26.0, 4079.55])
def test_short_table_agrees_with_the_exact_comparison(sigma: float) -> None:
    """A decided cell must hold no boundary: both of its ends give its value in arbitrary precision."""
    short = gaussian_noise._tables(sigma).short
    cells = 1 << 20
    assert np.all(short[cells:][short[:cells] != -32768] == -short[:cells][short[:cells] != -32768])
    assert (short[:cells] == -32768).mean() < 0.02
    with mpmath.workprec(160):
        for cell in np.random.default_rng(3).integers(0, cells, 40):
            if short[cell] == -32768:
                continue
            for end in (cell, cell + 1):
                assert gaussian_noise._count_below(mpmath.mpf(int(end)) / cells, sigma) == short[cell]


def test_a_word_on_a_boundary_draws_more_bits() -> None:
    sigma, k = 26.0, 10
    with mpmath.workprec(300):
        exact = mpmath.erf((k + mpmath.mpf(0.5)) / (mpmath.mpf(sigma) * mpmath.sqrt(2)))
        word = int(mpmath.floor(mpmath.ldexp(exact, 62)))
        next_bits = int(mpmath.floor(mpmath.ldexp(exact, 126))) - (word << 64)
    # index = 20 bits of U in a 32-bit word whose sign bit (the highest of the 21) is 0
    first = ((word >> 42) << 11).to_bytes(4, "little")
    second = ((word & (2**42 - 1)) << 22).to_bytes(8, "little")
    for offset, magnitude in ((-1, k), (1, k + 1)):
        third = (next_bits + offset).to_bytes(8, "little")
        assert rounded_gaussian(sigma, 1, FixedBytes(first, second, third))[0] == magnitude
    # Exactly on it for 126 bits: a fourth read decides.
    source = FixedBytes(first, second, next_bits.to_bytes(8, "little"), b"\xff" * 8)
    assert rounded_gaussian(sigma, 1, source)[0] == k + 1
    assert source.left == []


def test_the_far_tail_is_reached() -> None:
    first = (((1 << 20) - 1) << 11).to_bytes(4, "little")
    value = rounded_gaussian(100.0, 1, FixedBytes(first, b"\xff" * 8, b"\x00" * 8))[0]
    assert 880 < value < 930  # 2 sf(x) = 2^-62 at x = 9.0: beyond what 53-bit floats can hold


def test_secure_noise_never_repeats_and_seeded_noise_does() -> None:
    first, second = (rounded_gaussian(100.0, 1000, SecureNoise()) for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(1000)
    seeded = [
        rounded_gaussian(100.0, 1000, SeededNoise(s, "client", c))
        for s, c in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert np.array_equal(seeded[0], seeded[1])
    assert not np.array_equal(seeded[0], seeded[2])
    assert not np.array_equal(seeded[0], seeded[3])
    assert SecureNoise.private and not SeededNoise.private


@pytest.mark.parametrize("sigma", [0.0, -1.0, 5000.0, math.nan])
def test_sigma_out_of_range(sigma: float) -> None:
    with pytest.raises(PrivacyError, match="standard deviation"):
        rounded_gaussian(sigma, 10, SecureNoise())
