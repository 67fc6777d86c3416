"""Candidate budgets: the smallest t0 that keeps each, and the signal that the release really has left."""

from __future__ import annotations

import numpy as np
import pytest

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.frontier import Trial, curve, frontier
from fedpdiff.privacy.gaussian_noise import SeededNoise
from fedpdiff.privacy.mechanism import clip, decode_integers, release_integers
from fedpdiff.schedule import NoiseSchedule

ALPHA_BAR = NoiseSchedule("linear", 1000).alpha_bar
PAPER = Trial(ALPHA_BAR, "linear", clip=10.0, delta=1e-5, signal_power=100.0)


def test_published_numbers() -> None:
    rows = {row["budget"]: row for row in frontier(PAPER, [20, 10, 5, 2])}
    assert list(rows) == [2, 5, 10, 20]
    assert [row["t0"] for row in rows.values()] == [854, 755, 675, 591]  # calculated independently
    # Every pixel counts as much as C here, so the signal-to-noise ratio is (C / s)^2 = (mu / 2)^2.
    for row in rows.values():
        assert row["signal_to_noise"] == pytest.approx((row["mu"] / 2) ** 2, rel=1e-12)
        assert row["signal_amplitude"] == pytest.approx(np.sqrt(row["alpha_bar"]), rel=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_each_row_keeps_its_budget_with_the_least_noise(schedule: str) -> None:
    alpha_bar = NoiseSchedule(schedule, 1000).alpha_bar  # type: ignore[arg-type]
    for row in frontier(Trial(alpha_bar, schedule, 4.3, 1e-6, 12.0), [0.7, 3, 42]):
        assert row["epsilon"] <= row["budget"] + 1e-3
        less_noise = mu_of(float(alpha_bar[row["t0"] - 1]), 4.3)
        assert epsilon_from_mu(less_noise, 1e-6) > row["budget"]


def test_the_signal_to_noise_ratio_is_that_of_the_release() -> None:
    """2,000 noisy uploads of one image: their mean and their variance give the ratio back within 3 %."""
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (1, 1, 8, 8))
    u = clip(image, np.zeros((1, 8, 8)), 4.0)
    (row,) = frontier(Trial(ALPHA_BAR, "linear", 4.0, 1e-5, float((u * u).sum())), [50])
    uploads = np.repeat(image, 2000, axis=0)
    integers = release_integers(uploads, np.zeros((1, 8, 8)), 4.0, row["alpha_bar"], SeededNoise(1, "test"))
    y = decode_integers(integers).astype(np.float64).reshape(2000, -1)
    variance = y.var(axis=0, ddof=1).mean()
    measured = ((y.mean(axis=0) ** 2).sum() - 64 * variance / 2000) / variance
    assert measured == pytest.approx(row["signal_to_noise"], rel=0.03)
    assert measured != pytest.approx(row["signal_to_noise"] * row["alpha_bar"], rel=0.03)


def test_a_budget_out_of_reach_says_what_the_schedule_gives() -> None:
    strict, loose = frontier(PAPER, [10, 0.01])
    assert strict["unreachable"] == "all 1000 steps of the linear schedule give epsilon 0.442"
    assert "t0" not in strict
    assert loose["t0"] == 675


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
def test_candidates_must_be_numbers_above_0(epsilon: float) -> None:
    with pytest.raises(PrivacyError, match="candidate epsilon"):
        frontier(PAPER, [epsilon])


def test_the_curve_covers_the_range_and_falls() -> None:
    line = curve(PAPER, 1, 100)
    epsilons = [point["epsilon"] for point in line]
    assert epsilons == sorted(epsilons, reverse=True)
    assert 90 < epsilons[0] <= 100.001
    assert 1 <= epsilons[-1] < 1.1
    assert 80 <= len(line) <= 330
    for key in ("signal_to_noise", "mu"):
        values = [point[key] for point in line]
        assert values == sorted(values, reverse=True)
