"""The three chains: forward process, its posterior, the losses and what the optimal outputs stand for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.diffusion.chain import Chain, global_chain, personal_chain
from fedpdiff.errors import ConfigError
from fedpdiff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule("linear", 1000)
T0 = 300
CHAINS = {
    "personal": personal_chain(SCHEDULE),
    "personal, noise": personal_chain(SCHEDULE, objective="noise"),
    "continued, ambient": global_chain(SCHEDULE, T0, "continued", "ambient"),
    "continued, noise": global_chain(SCHEDULE, T0, "continued", "noise"),
    "continued, velocity": global_chain(SCHEDULE, T0, "continued", "velocity"),
    "nested, ambient": global_chain(SCHEDULE, T0, "nested", "ambient"),
    "nested, noise": global_chain(SCHEDULE, T0, "nested", "noise"),
    "nested, velocity": global_chain(SCHEDULE, T0, "nested", "velocity"),
}
GLOBAL = [name for name in CHAINS if not name.startswith("personal")]


def levels(t: int, count: int = 1) -> torch.Tensor:
    return torch.full((count,), t)


def test_levels_and_signal_of_each_chain() -> None:
    abar = torch.from_numpy(SCHEDULE.alpha_bar)
    personal, below = CHAINS["personal"], personal_chain(SCHEDULE, T0)
    continued, nested = CHAINS["continued, ambient"], CHAINS["nested, ambient"]
    assert (personal.first, personal.last, personal.start) == (1, 1000, 1.0)
    assert (below.first, below.last) == (1, T0)
    assert (continued.first, continued.last) == (T0 + 1, 1000)
    assert (nested.first, nested.last) == (1, 1000)
    assert continued.start == nested.start == pytest.approx(float(abar[T0]), abs=0)
    assert torch.equal(continued.alpha_bar, abar)
    assert torch.equal(nested.alpha_bar, abar * abar[T0])
    torch.testing.assert_close(nested.ratio, abar)
    assert continued.ratio[T0] == 1.0


def test_a_continued_chain_needs_levels_above_t0() -> None:
    with pytest.raises(ConfigError, match="t0 = 1000: chain = 'continued' needs levels above t0"):
        global_chain(SCHEDULE, 1000, "continued", "noise")
    assert global_chain(SCHEDULE, 1000, "nested", "noise").last == 1000


@pytest.mark.parametrize("name", CHAINS)
def test_forward_process_carries_the_signal_it_says(name: str) -> None:
    chain = CHAINS[name]
    t = torch.tensor([chain.first, 600, chain.last])
    one, zero = torch.ones(3, 1, 1, 1, dtype=torch.float64), torch.zeros(3, 1, 1, 1, dtype=torch.float64)
    signal = chain.diffuse(one, t, zero).flatten()
    noise = chain.diffuse(zero, t, one).flatten()
    torch.testing.assert_close(signal**2, chain.alpha_bar[t] / chain.start)
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name", GLOBAL)
def test_diffusing_uploads_on_equals_diffusing_clean_images(name: str, gaussian: Any) -> None:
    """False-alarm rate below 1e-4: each of 8 numbers is within 4.5 standard errors.

    Taking the uploads as if they were clean (share of signal r instead of abar) is off by over 8.
    """
    chain, t, count = CHAINS[name], 400, 40_000
    generator = torch.Generator().manual_seed(1)
    upload = gaussian.noisy(chain.start).draw(count, generator)
    noise = torch.randn(upload.shape, generator=generator, dtype=torch.float64)
    x = chain.diffuse(upload, levels(t, count), noise).flatten(1)

    def errors(share: float) -> torch.Tensor:
        want = gaussian.noisy(share)
        variance = want.cov.diagonal()
        mean = (x.mean(0) - want.mean) / (variance / count).sqrt()
        return torch.cat([mean, (x.var(0) - variance) / (variance * math.sqrt(2 / count))]).abs()

    assert errors(float(chain.alpha_bar[t])).max() < 4.5
    assert errors(float(chain.ratio[t])).max() > 8


@given(
    st.integers(1, 998),
    st.data(),
    st.sampled_from(["continued", "nested"]),
    st.sampled_from(["linear", "cosine"]),
)
def test_posterior_is_gaussian_conditioning(t0: int, data: Any, kind: Any, name: str) -> None:
    chain = global_chain(NoiseSchedule(name, 1000), t0, kind, "ambient")
    t = data.draw(st.integers(chain.first, 1000))
    s, r = chain.start, float(chain.ratio[t])
    # Given u: y = sqrt(s) u + sqrt(1 - s) z and x = sqrt(r) y + sqrt(1 - r) e are jointly Gaussian.
    gain = math.sqrt(r) * (1 - s) / (r * (1 - s) + (1 - r))
    k1, k2, variance = (float(c) for c in chain.posterior(levels(t)))
    assert k1 == pytest.approx(gain, rel=1e-9)
    assert k2 == pytest.approx(math.sqrt(s) - gain * math.sqrt(r * s), rel=1e-6, abs=1e-12)
    assert variance == pytest.approx((1 - s) - gain * math.sqrt(r) * (1 - s), rel=1e-6, abs=1e-12)
    assert variance > 0


def test_posterior_at_both_ends() -> None:
    nested = CHAINS["nested, ambient"]
    k1, k2, variance = (float(c) for c in nested.posterior(levels(1)))  # almost the upload itself
    assert (k1, k2, variance) == pytest.approx((1.0, 0.0, 0.0), abs=1e-3)
    k1, k2, variance = (float(c) for c in nested.posterior(levels(1000)))  # x says nothing about the upload
    assert (k1, k2, variance) == pytest.approx((0.0, math.sqrt(nested.start), 1 - nested.start), abs=1e-2)


def optimum(chain: Chain, gaussian: Any, x: torch.Tensor, t: int) -> torch.Tensor:
    if chain.objective == "ambient":
        return gaussian.expected(x, float(chain.alpha_bar[t]))
    ratio = float(chain.ratio[t])
    upload = gaussian.noisy(chain.start)
    if chain.objective == "velocity":
        return math.sqrt(ratio) * upload.expected_noise(x, ratio) - math.sqrt(1 - ratio) * upload.expected(
            x, ratio
        )
    return upload.expected_noise(x, ratio)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("t", [400, 700])
def test_the_best_possible_output_has_the_least_loss(name: str, t: int, gaussian: Any) -> None:
    """The loss sees uploads only, yet is least at the estimate of the clean image (ambient).

    Paired on the same 40,000 draws. A change of size a costs a^2 per value and its chance part has a standard
    error below a * 1.6 / 400, so a = 0.1 is told apart with over 20 standard errors.
    """
    chain, count = CHAINS[name], 40_000
    generator = torch.Generator().manual_seed(2)
    start = gaussian.noisy(chain.start).draw(count, generator)
    noise = torch.randn(start.shape, generator=generator, dtype=torch.float64)
    t_all = levels(t, count)
    x = chain.diffuse(start, t_all, noise)
    best = optimum(chain, gaussian, x, t)

    def loss(output: torch.Tensor) -> float:
        return float(chain.losses(output, start, x, t_all, noise).mean())

    sign = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).view(1, 1, 2, 2)
    for change in (0.1 * sign, -0.1 * sign, 0.1 * x, -0.1 * x, 0.3 * torch.sin(9 * x)):
        assert loss(best) < loss(best + change)
    if chain.objective == "ambient":
        assert loss(best) < loss(chain.start_from_output(best, x, t_all))  # E[y | x], the estimated upload


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("t", [301, 400, 990])
def test_outputs_stand_for_the_clean_image_the_start_image_and_the_noise(
    name: str, t: int, gaussian: Any
) -> None:
    chain = CHAINS[name]
    x = 1.5 * torch.randn(50, 1, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    best, t_all = optimum(chain, gaussian, x, t), levels(t, len(x))
    clean = gaussian.expected(x, float(chain.alpha_bar[t]))
    start = gaussian.noisy(chain.start).expected(x, float(chain.ratio[t]))
    torch.testing.assert_close(chain.clean_from_output(best, x, t_all), clean, atol=1e-5, rtol=0)
    noise = gaussian.noisy(chain.start).expected_noise(x, float(chain.ratio[t]))
    torch.testing.assert_close(chain.start_from_output(best, x, t_all), start, atol=1e-5, rtol=0)
    torch.testing.assert_close(chain.noise_from_output(best, x, t_all), noise, atol=1e-5, rtol=0)


def test_each_image_has_its_own_level() -> None:
    chain = CHAINS["nested, noise"]
    x, t = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(4)), torch.tensor([1, 500, 1000])
    together = chain.clean_from_output(x.flip(0), x, t)
    for row in range(3):
        alone = chain.clean_from_output(x.flip(0)[row : row + 1], x[row : row + 1], t[row : row + 1])
        assert torch.equal(together[row : row + 1], alone)
