"""PFDM's utility theorem (arXiv 2504.00952, Theorem 5.2) on Gaussian classes, where nothing is trained.

The theorem bounds W2^2 of two-stage samples by O(2/(2+3s^2) d^2/N + 3s^2/(2+3s^2) d^2/n), for N uploads of a
class and n images of it at the client, and the gain over local-only from below by
Omega((s^2+1)/(2s^2+1)^2 d^2/n). Here d^2/n is what local-only itself costs, d/n + d(d+1)/(4n) exactly for
N(0, I).

Statistical tests compare the mean over repeated training sets with the prediction. They fail when it is off
by more than 5 standard errors (false alarm 6e-7 each) and more than 6 % of local-only's distance, which is
what terms of second order in 1/n may cost. Each mutation of the method must move it further than that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from tests.theory.gaussians import Gaussian, Sampler, expected_w2, fit, standard, two_stage, w2_squared

REPEATS = 150
FEW, POOLED = 100, 5000
NOISES = (0.3, 1.0, 2.0, 5.0)
SAMPLERS: tuple[Sampler, ...] = ("ddpm", "ddim")

Learn = Callable[[Gaussian, float, int, np.random.Generator], Gaussian]


def from_uploads(truth: Gaussian, s: float, count: int, rng: np.random.Generator) -> Gaussian:
    """Return what the global half learns of ``count`` noisy images."""
    return fit(truth.draw(count, rng) + s * rng.normal(size=(count, len(truth.mean))))


def of_clean_images(truth: Gaussian, s: float, count: int, rng: np.random.Generator) -> Gaussian:
    """A mutation: the global half learns clean images, and its draws get the noise afterwards."""
    return fit(truth.draw(count, rng)).noisy(s)


def without_noise(truth: Gaussian, s: float, count: int, rng: np.random.Generator) -> Gaussian:
    """A mutation: what is handed over lacks the noise of its level."""
    return fit(truth.draw(count, rng))


def measure(
    size: int,
    s: float,
    few: int = FEW,
    pooled: int = POOLED,
    sampler: Sampler = "ddpm",
    learn: Learn = from_uploads,
    hand_off: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return W2^2 to the truth of local-only and of two-stage samples, one of each per training set."""
    truth, rng = standard(size), np.random.default_rng([size, few, pooled, int(1000 * s)])
    local, both = [], []
    for _ in range(REPEATS):
        personal = fit(truth.draw(few, rng))
        local.append(w2_squared(personal, truth))
        samples = two_stage(learn(truth, s, pooled, rng), personal, hand_off * s, sampler)
        both.append(w2_squared(samples, truth))
    return np.array(local), np.array(both)


measured = cache(measure)


def off(values: np.ndarray, predicted: float, unit: float) -> bool:
    """Return whether the mean is not the predicted one; see the module's docstring."""
    difference = abs(values.mean() - predicted)
    return difference > 5 * values.std(ddof=1) / len(values) ** 0.5 and difference > 0.06 * unit


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("s", NOISES)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_distance_is_the_predicted_one(size: int, s: float, sampler: Sampler) -> None:
    local, both = expected_w2(size, s, FEW, POOLED, sampler)
    alone, together = measured(size, s, sampler=sampler)
    assert not off(alone, local, local)
    assert not off(together, both, local)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("s", [*NOISES, 20.0])
def test_it_keeps_to_the_theorem(size: int, s: float) -> None:
    """The bounds with constants. Distance: at most 1.5 times, for DDPM. Gain when the uploads are many: for
    DDPM between d / (d + d(d+1)/4), the share of the mean alone, and 8 times; for DDIM, which forgets less
    of the hint, at least 1 time.
    """
    rate = expected_w2(size, s, 1, 1, "ddpm")[0]  # the d^2 of the theorem
    above = 1.5 * (2 / (2 + 3 * s**2) * rate / POOLED + 3 * s**2 / (2 + 3 * s**2) * rate / FEW)
    assert expected_w2(size, s, FEW, POOLED, "ddpm")[1] <= above
    below = (s**2 + 1) / (2 * s**2 + 1) ** 2 * rate / FEW
    gains = {}
    for sampler in SAMPLERS:
        local, both = expected_w2(size, s, FEW, 10**12, sampler)
        gains[sampler] = (local - both) / below
    assert size / rate * (1 - 1e-6) <= gains["ddpm"] <= 8
    assert gains["ddim"] >= 1 - 1e-6
    if s in NOISES:
        alone, together = measured(size, s)
        slack = 5 * together.std(ddof=1) / REPEATS**0.5
        assert together.mean() <= above + slack + 0.06 * alone.mean()


@pytest.mark.parametrize("few", [50, 200, 800])
def test_the_gain_falls_as_one_over_n(few: int) -> None:
    """The same share of what local-only costs, whatever n, as long as the uploads are many more."""
    alone, together = measure(2, 1.0, few=few, pooled=200 * few)
    share = (alone - together) / alone.mean()
    local, both = expected_w2(2, 1.0, few, 200 * few, "ddpm")
    assert not off(share, 1 - both / local, 1.0)


def test_few_uploads_do_harm_and_many_help() -> None:
    """The prediction's break-even in N, for DDIM at s = 2: a quarter of it loses, four times it gains."""
    size, s, few = 2, 2.0, 100
    one_upload = expected_w2(size, s, 10**15, 1, "ddim")[1]
    local, kept = expected_w2(size, s, few, 10**15, "ddim")
    even = one_upload / (local - kept)
    for factor, sign in ((0.25, -1), (4.0, 1)):
        alone, together = measure(size, s, few, round(factor * even), "ddim")
        gain = sign * (alone - together)
        assert gain.mean() > 5 * gain.std(ddof=1) / REPEATS**0.5  # false alarm below 1e-6


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_centre_moves_the_gain_through_the_noise(sampler: Sampler) -> None:
    """At one budget s = 2C/mu, and C must hold the images around the centre: C^2 = r^2 + d for a centre at
    distance r of the mean. So a centre near the images gains, by exactly what the smaller s gives; at the
    same C its place is of no matter.
    """
    size, mu = 2, 6.0
    shares = []
    for distance in (0.0, 2.0, 4.0):
        s = 2 * (distance**2 + size) ** 0.5 / mu
        alone, together = measured(size, s, sampler=sampler)
        local, both = expected_w2(size, s, FEW, POOLED, sampler)
        assert not off(together, both, local)
        shares.append(1 - together.mean() / alone.mean())
    assert shares[0] > shares[1] > shares[2] > 0
    rng = np.random.default_rng(5)
    uploads, personal = (fit(standard(size).draw(50, rng)) for _ in range(2))
    moved = [Gaussian(one.mean + 3.0, one.cov) for one in (uploads, personal)]
    here = two_stage(uploads.noisy(1.0), personal, 1.0, sampler)
    there = two_stage(moved[0].noisy(1.0), moved[1], 1.0, sampler)
    assert there.mean - 3.0 == pytest.approx(here.mean)
    assert there.cov == pytest.approx(here.cov)


@pytest.mark.parametrize(
    "mutation",
    [
        {"learn": of_clean_images, "pooled": 100},
        {"learn": without_noise},
        {"hand_off": 0.5},
        {"hand_off": 2.0},
    ],
    ids=["global half sees clean images", "no noise at the hand-off", "handed off too late", "too early"],
)
def test_a_broken_method_is_noticed(mutation: dict) -> None:
    size, s = 4, 1.0
    local, both = expected_w2(size, s, FEW, mutation.get("pooled", POOLED), "ddpm")
    assert off(measure(size, s, **mutation)[1], both, local)
