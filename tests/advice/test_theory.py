"""The closed forms of the advice against experiments with Gaussian classes.

Statistical tests use fixed seeds; their tolerances are many standard errors (false alarm below 1e-6 for a new
seed) and cover what the closed forms leave out, terms of second order in 1/n.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedpdiff.advice.spectrum import Spectrum, digits_like
from fedpdiff.advice.theory import (
    Distances,
    Noise,
    class_mean_error,
    directions_seen,
    distances,
    recognised,
    theorem_5_2_share,
)
from tests.theory.gaussians import Gaussian, expected_w2, fit, two_stage, w2_squared


def white(size: int, between: float = 1e9) -> Spectrum:
    """Return equal variances; class means so far apart that nothing is gained by pulling them together."""
    return Spectrum(np.ones(size), np.full(size, between))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("s", [0.3, 1.0, 5.0])
def test_with_equal_variances_it_is_theorem_5_2(size: int, s: float) -> None:
    few, pooled = 100_000, 10_000_000
    found = distances(white(size), Noise(s * s, s * s), few, pooled)
    local, both = expected_w2(size, s, few, pooled, "ddim")
    assert (found.local, found.pfdm) == (pytest.approx(local, rel=1e-3), pytest.approx(both, rel=1e-3))
    assert found.gain(found.endless) >= theorem_5_2_share(s * s)
    assert found.oracle == pytest.approx(found.endless)


def experiment(spectrum: Spectrum, noise: float, few: int, pooled: int, repeats: int) -> Distances:
    """Return mean distances of fitted Gaussians; of the truth, the mean is drawn as class means are."""
    rng, size = np.random.default_rng(4), len(spectrum.within)
    totals = np.zeros(3)
    for _ in range(repeats):
        truth = Gaussian(rng.normal(size=size) * np.sqrt(spectrum.between), np.diag(spectrum.within))
        personal = fit(truth.draw(few, rng))
        uploads = fit(truth.noisy(noise**0.5).draw(pooled, rng))
        perfect = truth.noisy(noise**0.5)
        samples = [personal, *(two_stage(hint, personal, noise**0.5, "ddim") for hint in (uploads, perfect))]
        totals += [w2_squared(one, truth) for one in samples]
    local, pfdm, oracle = totals / repeats
    return Distances(local, pfdm, oracle, oracle, 0.0)


@pytest.mark.parametrize("noise", [0.003, 0.03, 0.3])
def test_unequal_variances_are_as_in_the_experiment(noise: float) -> None:
    """Within 15 % of what local-only costs; the experiment's own error is below 3 % of it."""
    spectrum = digits_like(8, 5)
    few, pooled = 60, 4000
    found = distances(spectrum, Noise(noise, noise), few, pooled)
    seen = experiment(spectrum, noise, few, pooled, repeats=150)
    for name in ("local", "pfdm", "oracle"):
        assert getattr(found, name) == pytest.approx(getattr(seen, name), abs=0.15 * seen.local), name
    assert found.gain(found.pfdm) == pytest.approx(seen.gain(seen.pfdm), abs=0.12)
    # A model without the global half's errors, or one that follows no hint, would be noticed:
    assert abs(found.local - found.pfdm) > 0.15 * seen.local or noise == 0.3


def test_more_of_anything_is_never_worse() -> None:
    spectrum = digits_like(64, 10)

    def gain(noise: float, pooled: float) -> float:
        found = distances(spectrum, Noise(noise, noise), 5, pooled)
        return found.gain(found.pfdm)

    gains = [gain(noise, 100.0) for noise in (1e4, 10, 1, 0.1, 1e-3)]
    assert gains == sorted(gains) and gains[-1] - gains[0] > 0.5
    gains = [gain(0.1, pooled) for pooled in (1, 10, 100, 1e6, math.inf)]
    assert gains == sorted(gains)
    costs = [distances(spectrum, Noise(1, 1), few, 1e4).local for few in (1, 5, 50, 5000)]
    assert costs == sorted(costs, reverse=True)
    found = distances(spectrum, Noise(1e12, 1e12), 5, 100)
    assert found.gain(found.pfdm) == pytest.approx(0, abs=1e-3)
    assert found.gap_closed == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("factor", "seen"), [(0.5, 0), (2.0, 1)])
def test_a_direction_shows_above_the_threshold_only(factor: float, seen: int) -> None:
    """The strongest eigenvector of noisy images points along the one direction that varies, or anywhere.

    Below the threshold its squared overlap tends to 0, at twice the threshold to (1 - 1/4) / (1 + 2 sqrt(d/N)
    / 4) = 0.55 or more here (Paul 2007); 1/4 lies many standard deviations from both.
    """
    size, images, noise = 200, 800, 0.5
    variances = np.full(size, 1e-12)
    variances[0] = factor * noise * (size / images) ** 0.5
    assert directions_seen(variances, noise, images) == seen
    rng = np.random.default_rng(0)
    overlaps = []
    for _ in range(5):
        pixels = rng.normal(size=(images, size)) * np.sqrt(noise + variances)
        vectors = np.linalg.eigh(pixels.T @ pixels / images)[1]
        overlaps.append(vectors[0, -1] ** 2)
    assert (np.mean(overlaps) > 0.25) == bool(seen)


def test_the_error_of_a_class_mean_is_that_of_means() -> None:
    """The mean of 400 repetitions, whose standard error is below 2 %."""
    spectrum, noise, images = digits_like(16, 3), 0.5, 20
    rng = np.random.default_rng(1)
    coarse = spectrum.between > 0
    draws = rng.normal(size=(400, images, 16)) * np.sqrt(spectrum.within + noise)
    error = np.square(draws.mean(axis=1)[:, coarse]).sum(axis=1).mean() / spectrum.between.sum()
    assert class_mean_error(spectrum, noise, images) == pytest.approx(error, rel=0.1)


def test_a_class_without_images_is_recognised_by_its_hint() -> None:
    spectrum = digits_like(64, 10)
    clear, faint = Noise(1e-6, 1e-6), Noise(1e6, 1e6)
    assert recognised(spectrum, clear, math.inf, 10) > 0.95
    assert recognised(spectrum, faint, math.inf, 10) < 0.1  # the other classes
    shares = [recognised(spectrum, Noise(s, s), 100, 10) for s in (10, 1, 0.1, 0.01)]
    assert shares == sorted(shares)
    assert recognised(spectrum, Noise(0.1, 0.1), 3, 10) < recognised(spectrum, Noise(0.1, 0.1), 1000, 10)


def test_recognition_is_that_of_the_nearest_mean() -> None:
    """Samples between equidistant means, 40,000 of them: standard error below 0.003, tolerance 0.015."""
    classes = 4
    spectrum = Spectrum(np.full(classes, 0.3), np.full(classes, 0.7 / classes))
    noise = Noise(0.2, 0.2)
    rng = np.random.default_rng(2)
    means = np.eye(classes) - 1 / classes
    means *= math.sqrt(0.7 / np.square(means).sum(axis=1)[0])
    known = 0.3 + 0.7 / classes
    follow = math.sqrt(known / (known + 0.2))
    start = means[1:].mean(axis=0)
    samples = start + follow * (means[0] - start) + math.sqrt(0.3) * rng.normal(size=(40_000, classes))
    nearest = np.square(samples[:, None] - means).sum(axis=2).argmin(axis=1)
    assert recognised(spectrum, noise, math.inf, classes) == pytest.approx((nearest == 0).mean(), abs=0.015)
