"""Sampling with the exact estimates of Gaussian images, where mean and covariance must come out right.

With them every step of DDIM and DPM-Solver++ is affine, so the samples' mean and covariance follow exactly
from where five inputs go, without any draw; only DDPM, which adds noise, is judged by samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpdiff.diffusion import sampling
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.sampling import (
    hand_off,
    refine,
    reverse,
    sample_two_stage,
    sample_whole_chain,
    spaced_levels,
)
from fedpdiff.errors import ConfigError
from fedpdiff.schedule import NoiseSchedule

ALPHA_BAR = torch.from_numpy(NoiseSchedule("linear", 1000).alpha_bar)
T0 = 300
CENTRE = torch.tensor([[[0.1, -0.3], [0.0, 0.2]]])


def moments(run: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and covariance of an affine ``run`` of standard normal input."""
    inputs = torch.cat([torch.zeros(1, 4), torch.eye(4)]).view(5, 1, 2, 2)
    out = run(inputs).double().flatten(1)
    matrix = (out[1:] - out[0]).T
    return out[0], matrix @ matrix.T


def assert_close(got: tuple[torch.Tensor, torch.Tensor], want: Any, relative: float) -> None:
    """Compare with a Gaussian: mean within ``relative`` standard deviations, covariance within that share."""
    deviation = want.cov.diagonal().sqrt()
    assert ((got[0] - want.mean) / deviation).abs().max() < relative
    assert torch.linalg.norm(got[1] - want.cov) < relative * torch.linalg.norm(want.cov)


@settings(deadline=None)
@given(st.integers(0, 999), st.data())
def test_spaced_levels(low: int, data: Any) -> None:
    high = data.draw(st.integers(low + 1, 1000))
    steps = data.draw(st.integers(1, high - low))
    levels = spaced_levels(high, low, steps)
    assert len(levels) == len(set(levels)) == steps
    assert levels == sorted(levels, reverse=True)
    assert levels[0] == high
    assert levels[-1] > low
    gaps = [a - b for a, b in zip(levels, [*levels[1:], low], strict=True)]
    if low:
        assert max(gaps) - min(gaps) <= 2  # evenly spaced, up to rounding
    else:
        assert all(a >= b - 1 for a, b in itertools.pairwise(gaps))  # ever smaller, up to rounding


@pytest.mark.parametrize("steps", [0, 11])
def test_impossible_numbers_of_steps(steps: int) -> None:
    with pytest.raises(ConfigError, match="must be between 1 and 10"):
        spaced_levels(310, 300, steps)


def dense_near(stop: int, steps: int) -> list[int]:
    """Return levels that lie ever closer towards ``stop``, where the last step removes all noise at once."""
    return sorted({stop + 1 + round((999 - stop) * (i / steps) ** 2) for i in range(steps + 1)}, reverse=True)


@pytest.mark.parametrize(("sampler", "steps", "relative"), [("ddim", 300, 0.02), ("dpm-solver++", 60, 0.02)])
@pytest.mark.parametrize("stop", [0, T0])
def test_deterministic_samplers_reach_the_target(
    sampler: str, steps: int, relative: float, stop: int, gaussian: Any
) -> None:
    def predict(x: torch.Tensor, t: int, _: torch.Tensor) -> torch.Tensor:
        return gaussian.expected(x, float(ALPHA_BAR[t]))

    def run(x: torch.Tensor) -> torch.Tensor:
        labels = torch.zeros(len(x), dtype=torch.int64)
        return reverse(
            predict, ALPHA_BAR, dense_near(stop, steps), x, labels, sampler, torch.Generator(), stop
        )[0]

    assert_close(moments(run), gaussian.noisy(float(ALPHA_BAR[stop])), relative)


@pytest.mark.parametrize("stop", [0, T0])
def test_ddpm_reaches_the_target(stop: int, gaussian: Any) -> None:
    """Mean within 0.02 + 4.5 standard errors of 8,000 samples, covariance within 2 % + 4.5 (rate below 1e-4).

    The first numbers are for the 1,000 steps. The other end of the chain (stop mistaken) is off by far more.
    """
    count = 8_000
    generator = torch.Generator().manual_seed(5)

    def predict(x: torch.Tensor, t: int, _: torch.Tensor) -> torch.Tensor:
        return gaussian.expected(x, float(ALPHA_BAR[t]))

    x = torch.randn(count, 1, 2, 2, generator=generator)
    labels = torch.zeros(count, dtype=torch.int64)
    levels = spaced_levels(1000, stop, 1000 - stop)
    out = reverse(predict, ALPHA_BAR, levels, x, labels, "ddpm", generator, stop)[0].double().flatten(1)

    def errors(want: Any) -> tuple[float, float]:
        variance = want.cov.diagonal()
        mean = ((out.mean(0) - want.mean) / variance.sqrt()).abs().max()
        scale = torch.outer(variance, variance).sqrt()
        return float(mean), float(((torch.cov(out.T) - want.cov) / scale).abs().max())

    chance = 4.5 / count**0.5
    mean, covariance = errors(gaussian.noisy(float(ALPHA_BAR[stop])))
    assert mean < 0.02 + chance
    assert covariance < 0.02 + chance * 2**0.5
    assert errors(gaussian.noisy(float(ALPHA_BAR[T0 - stop])))[1] > 0.2


@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_few_large_steps_stay_finite(sampler: str, name: str, gaussian: Any) -> None:
    alpha_bar = torch.from_numpy(NoiseSchedule(name, 1000).alpha_bar)

    def predict(x: torch.Tensor, t: int, _: torch.Tensor) -> torch.Tensor:
        return gaussian.expected(x, float(alpha_bar[t]))

    x = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(6))
    for steps in (1, 2, 5):
        levels = spaced_levels(1000, 0, steps)
        out, view = reverse(
            predict, alpha_bar, levels, x, torch.zeros(2, dtype=torch.int64), sampler, torch.Generator()
        )
        assert out.isfinite().all()
        assert view.isfinite().all()
        torch.testing.assert_close(out, view)  # the last step lands on the last estimate of the clean image


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        ("ddpm", DDPMScheduler(clip_sample=False, prediction_type="sample")),
        ("ddim", DDIMScheduler(clip_sample=False, prediction_type="sample")),
        (
            "dpm-solver++",
            DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", prediction_type="sample"),
        ),
    ],
)
def test_all_levels_equal_diffusers_own_scheduler(sampler: str, scheduler: Any) -> None:
    """Diffusers rounds beta and alpha_bar to single precision, hence the tolerance, on values up to 1."""
    steps = list(range(1000))[::-1]
    if sampler == "ddim":
        scheduler.set_timesteps(1000)
    else:
        scheduler.set_timesteps(timesteps=steps)
    ours = sampling._respaced_scheduler(sampler, ALPHA_BAR, spaced_levels(1000, 0, 1000))
    assert ours.timesteps.tolist() == scheduler.timesteps.tolist() == steps
    x = y = torch.randn(8, generator=torch.Generator().manual_seed(7)).view(2, 1, 2, 2)
    noise, same = torch.Generator().manual_seed(8), torch.Generator().manual_seed(8)
    for index, t in enumerate(steps):
        clean = torch.tanh(x + index / 1000)  # any prediction will do
        a, b = ({}, {}) if sampler == "dpm-solver++" else ({"generator": noise}, {"generator": same})
        x = ours.step(clean, ours.timesteps[index], x, **a).prev_sample
        y = scheduler.step(clean, t, y, **b).prev_sample
        torch.testing.assert_close(x, y, atol=1e-3, rtol=0)


def test_unknown_sampler() -> None:
    with pytest.raises(ConfigError, match="sampler = 'euler': must be one of dpm-solver"):
        sampling._respaced_scheduler("euler", ALPHA_BAR, [2, 1])


@pytest.fixture
def halves(
    gaussian: Any, exact_network: Any, describe: Any
) -> Callable[..., tuple[Denoiser, Denoiser, list[Any]]]:
    """Return a function that makes exact halves for two classes; the global one sees u = x - centre."""
    classes = [gaussian, gaussian.shifted(torch.full((4,), -0.15))]

    def make(kind: str, objective: str, **changes: int) -> tuple[Denoiser, Denoiser, list[Any]]:
        config = describe(kind, objective=objective, image_shape=[1, 2, 2], **changes)
        framed = [images.shifted(-CENTRE) for images in classes]
        global_half = Denoiser(exact_network(config.chain(), framed), config, CENTRE)
        config = describe("personal", image_shape=[1, 2, 2])
        personal = Denoiser(exact_network(config.chain(), classes), config, torch.zeros_like(CENTRE))
        return global_half, personal, classes

    return make


@pytest.mark.parametrize("kind", ["continued", "nested"])
@pytest.mark.parametrize("objective", ["ambient", "noise"])
@pytest.mark.parametrize("label", [0, 1])
def test_exact_halves_make_the_target(
    kind: str, objective: str, label: int, halves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    global_half, personal, classes = halves(kind, objective)
    labels = torch.full((5,), label)
    generator = torch.Generator()

    def first_stage(x: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr(sampling, "_noise", lambda *_: x)
        return hand_off(global_half, labels, "dpm-solver++", 30, generator)[0]

    def both_stages(x: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr(sampling, "_noise", lambda *_: x)
        return sample_two_stage(global_half, personal, labels, "dpm-solver++", 30, T0, generator).images

    assert_close(moments(first_stage), classes[label].noisy(float(ALPHA_BAR[T0])), 0.05)
    assert_close(moments(both_stages), classes[label], 0.06)


@pytest.mark.parametrize("objective", ["ambient", "noise"])
def test_handed_over_at_the_last_level_pfdm_is_local_only(
    objective: str, halves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With t0 = T the uploads are noise, the global half makes noise, and the personal half does the rest."""
    global_half, personal, _ = halves("nested", objective, t0=1000, hand_off=1000)
    labels, generator = torch.zeros(5, dtype=torch.int64), torch.Generator()

    def first_stage(x: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr(sampling, "_noise", lambda *_: x)
        return hand_off(global_half, labels, "dpm-solver++", 30, generator)[0]

    def pfdm(x: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr(sampling, "_noise", lambda *_: x)
        return sample_two_stage(global_half, personal, labels, "dpm-solver++", 30, 300, generator).images

    def local_only(x: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr(sampling, "_noise", lambda *_: x)
        return sample_whole_chain(personal, labels, "dpm-solver++", 300, generator)

    assert_close(moments(first_stage), SimpleNamespace(mean=torch.zeros(4), cov=torch.eye(4)), 0.02)
    mean, cov = moments(local_only)
    assert_close(moments(pfdm), SimpleNamespace(mean=mean, cov=cov), 0.02)


@pytest.mark.parametrize("kind", ["continued", "nested"])
def test_each_half_is_asked_only_on_its_own_levels(kind: str, halves: Any) -> None:
    global_half, personal, _ = halves(kind, "ambient")
    labels = torch.tensor([0, 1, 1])
    sample_two_stage(global_half, personal, labels, "ddim", 7, 5, torch.Generator().manual_seed(1))
    first = [t + 1 for t, _ in global_half.network.asked]
    second = [t + 1 for t, _ in personal.network.asked]
    assert len(second) == 5
    assert second[0] == T0
    assert first[0] == 1000
    if kind == "continued":
        assert len(first) == 7
        assert min(first) > T0
    else:
        assert len(first) == 8  # one more to look at the finished upload
    assert all(asked == [0, 1, 1] for _, asked in global_half.network.asked + personal.network.asked)


def test_more_steps_than_levels_visit_every_level(halves: Any) -> None:
    _, personal, _ = halves("continued", "ambient")
    x, labels = torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64)
    refine(personal, x, 3, labels, "ddim", 50, torch.Generator())
    assert [t for t, _ in personal.network.asked] == [2, 1, 0]


@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
def test_equal_generators_give_equal_samples(sampler: str, halves: Any) -> None:
    global_half, personal, _ = halves("continued", "ambient")
    labels = torch.tensor([0, 1])
    once, again, other = (
        sample_two_stage(global_half, personal, labels, sampler, 4, 4, torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(once.images, again.images)
    assert torch.equal(once.global_view, again.global_view)
    assert not torch.equal(once.images, other.images)


def test_the_flag_says_unclipped_below_the_switch(describe: Any, exact_network: Any, gaussian: Any) -> None:
    config = describe("personal", image_shape=[1, 2, 2], clip_flag=True, clip_flag_switch=0.5)
    network = exact_network(config.chain(), [gaussian, gaussian])
    personal = Denoiser(network, config, torch.zeros(1, 2, 2))
    assert config.conditions == 4
    for t, flagged in [(300, 1), (151, 1), (150, 3), (1, 3)]:
        personal.clean(torch.zeros(1, 1, 2, 2), t, torch.tensor([1]))
        assert network.asked[-1] == (t - 1, [flagged])
