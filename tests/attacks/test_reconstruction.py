"""Reconstruction of Gaussian images with the exact denoiser, where the best estimate is Wiener's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedpdiff.attacks.image_quality import recovery
from fedpdiff.attacks.linear import wiener
from fedpdiff.attacks.reconstruction import Prior, ddim, maximum_a_posteriori, posterior_mean, tweedie
from fedpdiff.errors import ConfigError
from fedpdiff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule("linear", 1000)
COUNT = 800
LABELS = torch.zeros(COUNT, dtype=torch.int64)
# Variances of a random 64 x 64 matrix's A A' / 64, scaled to 0.354 a pixel (squared quarter-circle law).
ANGLES = np.linspace(0, np.pi / 2, 2001)
VARIANCES = 0.354 * 4 * np.sin(
    np.interp((np.arange(64) + 0.5) / 64, (ANGLES + np.sin(2 * ANGLES) / 2) / (np.pi / 2), ANGLES)
) ** 2  # fmt: skip


@pytest.fixture
def world(make_gaussians: Callable[..., Any]) -> Any:
    return make_gaussians(VARIANCES)


def signal_to_noise(level: int) -> float:
    return float(SCHEDULE.noise_to_signal(level) ** 2)


def least_recovery(level: int) -> float:
    """Return E|Wiener - u|^2 / E|mean - u|^2 exactly."""
    s2 = signal_to_noise(level)
    return float((VARIANCES * s2 / (VARIANCES + s2)).sum() / VARIANCES.sum())


def path_recovery(level: int) -> float:
    """Return the recovery of the whole deterministic path, sqrt(v / (a^2 v + b^2)) y without a mean."""
    share = np.sqrt(VARIANCES / (VARIANCES + signal_to_noise(level)))
    return float(2 - 2 * (VARIANCES * share).sum() / VARIANCES.sum())


@pytest.mark.parametrize("level", [1, 300, 690, 1000])
def test_tweedie_with_the_exact_denoiser_is_wiener(world: Any, make_noisy: Any, level: int) -> None:
    uploads = make_noisy(world.draw(COUNT, 1), level, 2)
    found = tweedie(world.prior(), uploads, level, LABELS).flatten(1).numpy()
    best = wiener(world.model(), uploads, LABELS, float(SCHEDULE.alpha_bar[level]))
    np.testing.assert_allclose(found, best, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("level", "expected"), [(300, 0.701), (500, 0.944), (690, 0.994)])
def test_recovery_is_the_closed_form(world: Any, make_noisy: Any, level: int, expected: float) -> None:
    """And the values known for such data: 0.701, 0.944, 0.994."""
    assert least_recovery(level) == pytest.approx(expected, abs=6e-4)
    truth = world.draw(COUNT, 3)
    uploads = make_noisy(truth, level, 4)
    guess = world.mean.expand(COUNT, -1)
    for attack in (tweedie, maximum_a_posteriori):
        score = recovery(attack(world.prior(), uploads, level, LABELS), truth, guess)
        assert score.score == pytest.approx(least_recovery(level), abs=4 * score.standard_error)
        assert score.standard_error < 0.006


@pytest.mark.parametrize("level", [500, 690])
def test_a_sharp_image_hides_what_tweedie_recovers(world: Any, make_noisy: Any, level: int) -> None:
    """Judged by DDIM alone an upload would seem to give nothing away: its recovery is above 1."""
    truth = world.draw(COUNT, 5)
    uploads = make_noisy(truth, level, 6)
    guess = world.mean.expand(COUNT, -1)
    sharp = recovery(ddim(world.prior(), uploads, level, LABELS, steps=level), truth, guess)
    assert sharp.score == pytest.approx(path_recovery(level), abs=0.03)
    assert sharp.score > 1.4
    assert recovery(tweedie(world.prior(), uploads, level, LABELS), truth, guess).score < 1


@pytest.mark.parametrize(("level", "expected"), [(300, 0.909), (500, 1.507), (690, 1.797)])
def test_fifty_steps_recover_what_is_known_for_them(
    world: Any, make_noisy: Any, level: int, expected: float
) -> None:
    truth = world.draw(COUNT, 5)
    uploads = make_noisy(truth, level, 6)
    score = recovery(ddim(world.prior(), uploads, level, LABELS), truth, world.mean.expand(COUNT, -1))
    assert score.score == pytest.approx(expected, abs=4 * score.standard_error + 0.015)


def test_the_deterministic_path_has_the_right_spread(world: Any, make_noisy: Any) -> None:
    """Its end is distributed like the images: the mean square of each axis is that of the data."""
    end = ddim(world.prior(), make_noisy(world.draw(COUNT, 7), 500, 8), 500, LABELS, steps=500)
    spread = ((end.flatten(1) - world.mean) @ world.axes.T).square().mean(0)
    large = world.variances > 0.2
    # 4 standard errors of a variance are 4 sqrt(2 / n) = 0.2, the steps' own error a few per cent
    torch.testing.assert_close(spread[large], world.variances[large], rtol=0.25, atol=0)


@pytest.mark.parametrize("samples", [1, 4])
def test_the_mean_of_samples_approaches_tweedie(world: Any, make_noisy: Any, samples: int) -> None:
    truth, level = world.draw(COUNT, 9), 300
    uploads = make_noisy(truth, level, 10)
    generator = torch.Generator().manual_seed(11)
    found = posterior_mean(world.prior(), uploads, level, LABELS, generator, samples, steps=100)
    score = recovery(found, truth, world.mean.expand(COUNT, -1))
    expected = (1 + 1 / samples) * least_recovery(level)
    assert score.score == pytest.approx(expected, abs=4 * score.standard_error + 0.02)


@pytest.mark.parametrize("level", [300, 690])
def test_map_of_gaussian_images_is_wiener(world: Any, make_noisy: Any, level: int) -> None:
    """Exactly that of images with the blur's noise, and nearly that of the images."""
    uploads = make_noisy(world.draw(COUNT, 12), level, 13)
    blur = 20
    found = maximum_a_posteriori(world.prior(), uploads, level, LABELS, 400, blur).flatten(1)
    blurred = world.variances + signal_to_noise(blur)
    observed = uploads.flatten(1) / float(SCHEDULE.alpha_bar[level]) ** 0.5
    gain = blurred / (blurred + signal_to_noise(level))
    exact = world.mean + ((observed - world.mean) @ world.axes.T * gain) @ world.axes
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)
    best = tweedie(world.prior(), uploads, level, LABELS).flatten(1)
    assert float((found - best).square().mean().sqrt()) < 0.02 * float(best.std())


def test_map_takes_the_likelier_of_two_images() -> None:
    """One pixel, images near -1 (one in four) or +1: MAP ends on a peak, the posterior mean in between."""
    means, shares, spread = torch.tensor([-1.0, 1.0]).double(), torch.tensor([0.25, 0.75]).double(), 0.05

    def predict(x: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        share = float(SCHEDULE.alpha_bar[t])
        variance = share * spread**2 + 1 - share
        off = x - share**0.5 * means
        weight = torch.softmax(shares.log() - off**2 / (2 * variance), dim=-1)
        each = means + share**0.5 * spread**2 / variance * off
        return (weight * each).sum(-1, keepdim=True)

    prior = Prior(predict, torch.from_numpy(SCHEDULE.alpha_bar), 1000)
    uploads = torch.tensor([-0.3, 0.05, 0.6]).double().view(3, 1, 1, 1)
    level, blur = 600, 20
    found = maximum_a_posteriori(prior, uploads, level, LABELS[:3], 1000, blur).flatten()
    grid = torch.linspace(-2, 2, 400_001, dtype=torch.float64)
    share, width = float(SCHEDULE.alpha_bar[level]), spread**2 + signal_to_noise(blur)
    for upload, peak in zip(uploads.flatten(), found, strict=True):
        density = (shares * torch.exp(-((grid[:, None] - means) ** 2) / (2 * width))).sum(1).log()
        posterior = density - (upload - share**0.5 * grid) ** 2 / (2 * (1 - share))
        near = (grid - peak).abs() < 0.5  # a peak, if not the highest: the ascent starts at the mean
        assert float(peak) == pytest.approx(float(grid[near][posterior[near].argmax()]), abs=1e-4)
    assert float(tweedie(prior, uploads, level, LABELS[:3]).abs().max()) < 0.9
    assert float(found.abs().min()) > 0.9


def test_a_wrong_level_recovers_less(world: Any, make_noisy: Any) -> None:
    """What the tests above must notice: levels counted from 0, or t0 taken for T - t0."""
    truth = world.draw(COUNT, 14)
    uploads = make_noisy(truth, 300, 15)
    guess = world.mean.expand(COUNT, -1)
    for level in (700, 200):
        score = recovery(tweedie(world.prior(), uploads, level, LABELS), truth, guess)
        assert score.score > least_recovery(300) + 0.02
    off_by_one = tweedie(world.prior(), uploads, 299, LABELS)
    assert float((off_by_one - tweedie(world.prior(), uploads, 300, LABELS)).abs().max()) > 1e-4


def test_levels_that_the_prior_does_not_know_are_refused(world: Any) -> None:
    prior = Prior(world.prior().predict, world.prior().alpha_bar, 300)
    images = world.draw(2, 0)
    for level in (0, 301):
        for attack in (tweedie, ddim, maximum_a_posteriori):
            with pytest.raises(ConfigError, match="knows levels 1 to 300"):
                attack(prior, images, level, LABELS[:2])
        with pytest.raises(ConfigError, match="knows levels 1 to 300"):
            posterior_mean(prior, images, level, LABELS[:2], torch.Generator())
    with pytest.raises(ConfigError, match="samples"):
        posterior_mean(prior, images, 300, LABELS[:2], torch.Generator(), samples=0)
    with pytest.raises(ConfigError, match="iterations"):
        maximum_a_posteriori(prior, images, 300, LABELS[:2], iterations=0)
