"""Recovery score, PSNR and SSIM where their value is known."""

from __future__ import annotations

import numpy as np
import pytest

from fedpdiff.attacks.image_quality import Recovery, psnr, recovery, ssim, strongest, undo_clip
from fedpdiff.errors import DataError


def images(count: int = 30, side: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, channels, side, side))


def test_recovery_runs_from_perfect_to_worse_than_a_guess() -> None:
    truth = images()
    guess = np.broadcast_to(truth.mean(0), truth.shape)
    assert recovery(truth, truth, guess) == Recovery(0.0, 0.0)
    assert recovery(guess, truth, guess).score == 1
    assert recovery(2 * guess - truth, truth, guess).score == pytest.approx(4)  # never cut off at 1
    half = 0.5 * (guess + truth)
    assert recovery(half, truth, guess).score == pytest.approx(0.25)


def test_recovery_weighs_images_by_their_error_not_evenly() -> None:
    truth, guess = np.zeros((2, 1)), np.array([[1.0], [3.0]])
    assert recovery(np.array([[1.0], [0.0]]), truth, guess).score == pytest.approx(1 / 10)


def test_the_standard_error_is_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(2000):
        truth = rng.standard_normal((50, 4)) * rng.uniform(0.5, 2, (50, 1))
        estimate = truth + 0.7 * rng.standard_normal(truth.shape)
        found.append(recovery(estimate, truth, np.zeros_like(truth)))
    errors = np.array([score.standard_error for score in found])
    # 4 standard errors of a standard deviation from 2000 draws are 6 %
    assert errors.mean() == pytest.approx(np.std([score.score for score in found]), rel=0.1)


def test_the_verdict_quotes_the_strongest_attack() -> None:
    scores = {"ddim": Recovery(1.5, 0.1), "tweedie": Recovery(0.7, 0.1), "map": Recovery(0.9, 0.1)}
    assert strongest(scores) == ("tweedie", scores["tweedie"])
    with pytest.raises(DataError, match="no attack"):
        strongest({})


def test_undoing_the_clip_finds_the_best_scalar_of_each_image() -> None:
    original = images()
    factors = np.linspace(0.1, 0.9, len(original))[:, None, None, None]
    np.testing.assert_allclose(undo_clip(factors * original, original), original.reshape(30, -1))
    estimate = original + images(seed=1)
    best = ((undo_clip(estimate, original) - original.reshape(30, -1)) ** 2).sum(1)
    for factor in (0.4, 0.5, 0.6):
        assert (best <= ((factor * estimate - original) ** 2).sum((1, 2, 3)) + 1e-12).all()
    np.testing.assert_array_equal(undo_clip(np.zeros_like(original), original), 0)


def test_psnr_counts_decibels_of_the_range() -> None:
    truth = images()
    np.testing.assert_allclose(psnr(truth + 0.02, truth), 40)  # 20 log10(2 / 0.02)
    assert np.isinf(psnr(truth, truth)).all()


def test_ssim_of_equal_constant_and_unrelated_images() -> None:
    truth = images()
    np.testing.assert_allclose(ssim(truth, truth), 1)
    grey, dark = np.zeros((1, 1, 16, 16)), np.full((1, 1, 16, 16), 0.5)
    c1 = (0.01 * 2) ** 2
    np.testing.assert_allclose(ssim(grey, dark), c1 / (0.25 + c1))  # luminance term alone
    assert abs(ssim(truth, images(seed=1)).mean()) < 0.1


def test_ssim_of_one_window_by_hand() -> None:
    x, y = images(1, 11, 1)[0, 0], images(1, 11, 1, seed=1)[0, 0]
    offset = np.arange(-5, 6)
    line = np.exp(-(offset**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2
    cov = (window * x * y).sum() - mx * my
    c1, c2 = 0.02**2, 0.06**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    np.testing.assert_allclose(ssim(x[None, None], y[None, None]), expected)


def test_ssim_falls_with_noise_also_on_small_images() -> None:
    for side in (8, 28):
        truth = images(side=side, channels=1)
        values = [
            ssim(truth + s * images(side=side, channels=1, seed=1), truth).mean() for s in (0.1, 0.5, 2)
        ]
        assert 1 > values[0] > values[1] > values[2] > 0


def test_what_cannot_be_scored_is_refused() -> None:
    truth = images()
    with pytest.raises(DataError, match="one shape"):
        recovery(truth, truth[:2], truth)
    with pytest.raises(DataError, match="two or more"):
        recovery(truth[:1], truth[:1], truth[:1])
    with pytest.raises(DataError, match="already exact"):
        recovery(truth, truth, truth)
    with pytest.raises(DataError, match="3 pixels"):
        ssim(truth[..., :2], truth[..., :2])
