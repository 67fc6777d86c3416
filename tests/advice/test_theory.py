"""The closed forms of the advice against experiments with Gaussian classes.

Statistical tests use fixed seeds; their tolerances are many standard errors (false alarm below 1e-6 for a new
seed) and cover what the closed forms leave out, terms of second order in 1/n.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedpdiff.advice import theory
from fedpdiff.advice.question import UNSEEN_SIGNAL
from fedpdiff.advice.spectrum import Spectrum, digits_like
from fedpdiff.advice.theory import (
    COARSE,
    DOUBT,
    Noise,
    class_mean_error,
    directions_seen,
    distances,
    recognised,
    theorem_5_2_share,
)
from fedpdiff.diffusion import denoiser, joining, linear_gaussian
from tests.theory.gaussians import Gaussian, fit, two_stage, w2_squared


def white(size: int, between: float = 1e9) -> Spectrum:
    """Return equal variances; class means so far apart that nothing is gained by pulling them together."""
    return Spectrum(np.ones(size), np.full(size, between))


def test_it_is_about_the_clients_that_there_are() -> None:
    """The advice may not import the networks, so both write these numbers down."""
    assert joining.DOUBT == DOUBT and linear_gaussian.RANK == COARSE
    assert denoiser.UNSEEN_SIGNAL == UNSEEN_SIGNAL


@pytest.mark.parametrize("s", [0.3, 1.0, 5.0])
def test_what_is_gained_in_the_mean_has_the_form_of_theorem_5_2(
    s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With perfect uploads the error of the mean is (1 - f)^2 of the own one, and the gain what is proved."""
    few = 1000
    monkeypatch.setattr(theory, "SHARED", 1e15)  # the shape is known
    found = distances(white(1), Noise(s * s, s * s, s * s), few, math.inf)
    follow = (1 + s * s) ** -0.5
    spared = found.local - found.endless
    assert spared == pytest.approx((1 - (1 - follow) ** 2) / few, rel=1e-6)
    assert found.pfdm == found.endless
    assert spared * few >= theorem_5_2_share(s * s)


def experiment(
    spectrum: Spectrum, noise: float, few: int, pooled: int, repeats: int
) -> tuple[float, float, float]:
    """Return mean distances, local-only, PFDM and oracle, of fitted Gaussians.

    Of the truth, the mean is drawn as class means are. The first stage has mean and covariance joined as
    :mod:`fedpdiff.diffusion.joining` does, with nothing else known of the shape.
    """
    rng, size = np.random.default_rng(4), len(spectrum.within)
    within, totals = spectrum.within, np.zeros(3)
    follow = np.sqrt(within / (within + noise))
    others = pooled - few
    error = within / others + noise * pooled / others**2
    handed = np.minimum(1, 1 / (1 + error * few / (DOUBT * within)) / follow)
    clean, noisy = np.outer(within, within), np.outer(within + noise, within + noise)
    worth = clean / (clean / others + (noisy - clean) * pooled / others**2)
    for _ in range(repeats):
        truth = Gaussian(rng.normal(size=size) * np.sqrt(spectrum.between), np.diag(within))
        images = truth.draw(pooled, rng)
        personal = fit(images[:few])
        uploads = fit(images + noise**0.5 * rng.normal(size=images.shape))
        change = (uploads.cov - noise * np.eye(size) - personal.cov) * pooled / others
        shape = personal.cov + worth / (few + worth) * change
        joined = Gaussian(personal.mean + handed * (uploads.mean - personal.mean) * pooled / others, shape)
        hints = (joined.noisy(noise**0.5), truth.noisy(noise**0.5))
        samples = [personal, *(two_stage(hint, personal, noise**0.5, "ddim") for hint in hints)]
        totals += [w2_squared(one, truth) for one in samples]
    local, pfdm, oracle = totals / repeats
    return local, pfdm, oracle


@pytest.mark.parametrize("noise", [0.003, 0.03, 0.3])
def test_unequal_variances_are_as_in_the_experiment(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 15 % of what local-only costs; the experiment's own error is below 3 % of it."""
    monkeypatch.setattr(theory, "SHARED", 0.0)  # of one class there is nothing to share
    spectrum = digits_like(8, 5)
    few, pooled = 60, 4000
    found = distances(spectrum, Noise(noise, noise, noise), few, pooled)
    seen = experiment(spectrum, noise, few, pooled, repeats=150)
    for name, value in zip(("local", "pfdm", "oracle"), seen, strict=True):
        assert getattr(found, name) == pytest.approx(value, abs=0.15 * seen[0]), name
    assert found.gain(found.pfdm) == pytest.approx(1 - seen[1] / seen[0], abs=0.12)
    # A model that follows no hint would be noticed:
    assert abs(found.local - found.pfdm) > 0.15 * seen[0] or noise == 0.3


def test_more_of_anything_is_never_worse() -> None:
    spectrum = digits_like(64, 10)

    def gain(noise: float, pooled: float) -> float:
        found = distances(spectrum, Noise(noise, noise, noise), 5, pooled)
        return found.gain(found.pfdm)

    gains = [gain(noise, 100.0) for noise in (1e4, 10, 1, 0.1, 1e-3)]
    assert gains == sorted(gains) and gains[-1] - gains[0] > 0.3
    gains = [gain(0.1, pooled) for pooled in (20, 100, 1e6, math.inf)]
    assert gains == sorted(gains)
    assert gain(0.1, 5) == 0  # all of them its own
    assert gain(0.1, 10) > -0.03  # doubting the own mean costs that at most
    costs = [distances(spectrum, Noise(1, 1, 1), few, 1e4).local for few in (1, 5, 50, 5000)]
    assert costs == sorted(costs, reverse=True)
    found = distances(spectrum, Noise(1e12, 1e12, 1e12), 5, 100)
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
    clear, faint = Noise(1e-6, 1e-6, 1e-6), Noise(1e6, 1e6, 1e6)
    assert recognised(spectrum, clear, math.inf, 10) > 0.95
    assert recognised(spectrum, faint, math.inf, 10) < 0.1  # the other classes
    shares = [recognised(spectrum, Noise(s, s, s), 100, 10) for s in (10, 1, 0.1, 0.01)]
    assert shares == sorted(shares)
    assert recognised(spectrum, Noise(0.1, 0.1, 0.1), 3, 10) < recognised(
        spectrum, Noise(0.1, 0.1, 0.1), 1000, 10
    )


def test_recognition_is_that_of_the_nearest_mean() -> None:
    """Samples between equidistant means, 40,000 of them: standard error below 0.003, tolerance 0.015."""
    classes = 4
    spectrum = Spectrum(np.full(classes, 0.3), np.full(classes, 0.7 / classes))
    noise = Noise(0.2, 0.2, 0.2)
    rng = np.random.default_rng(2)
    means = np.eye(classes) - 1 / classes
    means *= math.sqrt(0.7 / np.square(means).sum(axis=1)[0])
    known = 0.3 + 0.7 / classes
    follow = math.sqrt(known / (known + 0.2))
    start = means[1:].mean(axis=0)
    samples = start + follow * (means[0] - start) + math.sqrt(0.3) * rng.normal(size=(40_000, classes))
    nearest = np.square(samples[:, None] - means).sum(axis=2).argmin(axis=1)
    assert recognised(spectrum, noise, math.inf, classes) == pytest.approx((nearest == 0).mean(), abs=0.015)
