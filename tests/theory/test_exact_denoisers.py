"""The library's own chains and samplers, with exact denoisers, do what the theory of the two stages says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedpdiff.diffusion.chain import Objective, global_chain, personal_chain
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.denoiser_config import DenoiserConfig
from fedpdiff.diffusion.sampling import refine, reverse
from fedpdiff.schedule import NoiseSchedule
from tests.diffusion.conftest import SHAPE, ExactNetwork, GaussianImages
from tests.theory.gaussians import Gaussian, Mixture, two_stage

T0 = 60
SCHEDULE = NoiseSchedule("linear", 1000)
S = SCHEDULE.noise_to_signal(T0)


def denoiser(kind: str, objective: Objective, images: Gaussian) -> Denoiser:
    """Return a denoiser whose network is the best possible one for these clean images."""
    values: dict[str, Any] = {
        "kind": kind, "objective": objective, "schedule": "linear", "diffusion_steps": 1000, "t0": T0,
        "hand_off": T0, "last": 1000, "class_names": ["a"], "image_shape": list(SHAPE), "clip": 10.0,
    }  # fmt: skip
    config = DenoiserConfig.model_validate(values)
    known = GaussianImages(torch.from_numpy(images.mean), torch.from_numpy(images.cov))
    return Denoiser(ExactNetwork(config.chain(), [known]), config, torch.zeros(SHAPE))  # type: ignore[arg-type]


def small(seed: int) -> Gaussian:
    """Return images far within [-1, 1]: clamping must not play a part."""
    rng = np.random.default_rng(seed)
    factor = 0.08 * rng.normal(size=(4, 4))
    return Gaussian(0.15 * rng.normal(size=4), factor @ factor.T + 0.01 * np.eye(4))


@pytest.mark.parametrize("objective", ["ambient", "noise"])
def test_two_stage_sampling_ends_where_the_theory_says(objective: Objective) -> None:
    """DDIM without noise is affine, so mean and covariance follow from five inputs, and no draw is needed.

    The global half knows other images than the personal one, as it does when both have learnt from a sample.
    """
    handed, own = small(1), small(2)
    half, personal = denoiser("continued", objective, handed), denoiser("personal", "velocity", own)
    inputs = torch.cat([torch.zeros(1, 4), torch.eye(4)]).view(5, *SHAPE).double()
    labels, generator = torch.zeros(5, dtype=torch.long), torch.Generator()
    levels = list(range(1000, T0, -2))
    alpha_bar = half.chain.alpha_bar
    x, _ = reverse(half.clean, alpha_bar, levels, inputs, labels, "ddim", generator, stop=T0)
    out = refine(personal, x, T0, labels, "ddim", T0, generator).flatten(1).numpy()
    matrix = (out[1:] - out[0]).T
    expected = two_stage(handed.noisy(S), own, S, "ddim")
    alone = two_stage(own.noisy(S), own, S, "ddim")
    deviation = np.sqrt(np.diag(expected.cov))
    assert np.abs((out[0] - expected.mean) / deviation).max() < 0.05
    assert np.linalg.norm(matrix @ matrix.T - expected.cov) < 0.05 * np.linalg.norm(expected.cov)
    # The test would notice a hand-off that is ignored:
    assert np.abs((alone.mean - expected.mean) / deviation).max() > 0.3
    assert np.linalg.norm(alone.cov - expected.cov) > 0.3 * np.linalg.norm(expected.cov)


def test_the_objective_changes_no_optimum() -> None:
    """On a mixture with hidden classes, the best outputs of all objectives mean the same clean image."""
    mixture = Mixture((small(1), Gaussian(small(2).mean + 0.4, small(2).cov)))
    rng = np.random.default_rng(3)
    for level in (T0 + 1, 500, 1000):
        abar = SCHEDULE.alpha_bar[level]
        x = rng.normal(size=(200, 4)) * np.sqrt(1 - abar) + np.sqrt(abar) * 0.2
        clean = mixture.posterior_mean(x / np.sqrt(abar), SCHEDULE.noise_to_signal(level))
        x_t, levels = torch.from_numpy(x).view(-1, *SHAPE), torch.full((200,), level)
        # x = sqrt(abar) u + sqrt(1 - abar) z; by Tweedie E[e | x] = sqrt((1 - r)/(1 - abar)) E[z | x].
        noise = (x - np.sqrt(abar) * clean) / np.sqrt(1 - abar)
        for chain in (
            global_chain(SCHEDULE, T0, "continued", "noise"),
            personal_chain(SCHEDULE, None, "noise"),
        ):
            ratio = float(chain.ratio[level])
            output = torch.from_numpy(noise * np.sqrt((1 - ratio) / (1 - abar))).view(-1, *SHAPE)
            found = chain.clean_from_output(output, x_t, levels).flatten(1).numpy()
            assert found == pytest.approx(clean, abs=1e-9)
        ambient = global_chain(SCHEDULE, T0, "continued", "ambient")
        output = torch.from_numpy(clean).view(-1, *SHAPE)
        assert ambient.clean_from_output(output, x_t, levels).flatten(1).numpy() == pytest.approx(clean)
        upload = ambient.start_from_output(output, x_t, levels).flatten(1).numpy()
        through_noise = global_chain(SCHEDULE, T0, "continued", "noise")
        ratio = float(through_noise.ratio[level])
        output = torch.from_numpy(noise * np.sqrt((1 - ratio) / (1 - abar))).view(-1, *SHAPE)
        assert through_noise.start_from_output(output, x_t, levels).flatten(1).numpy() == pytest.approx(
            upload, abs=1e-9
        )


def test_the_objective_decides_what_an_error_of_the_network_costs() -> None:
    """An output that is wrong by 1 moves the estimated clean image by 1 with ``ambient``; with ``noise`` by
    (1 - abar) / sqrt(abar (1 - r)): far more where hardly any signal is left.
    """
    x = torch.zeros(1, *SHAPE, dtype=torch.float64)
    for level in (T0 + 1, 500, 1000):
        levels = torch.tensor([level])
        chain = global_chain(SCHEDULE, T0, "continued", "noise")
        abar, ratio = SCHEDULE.alpha_bar[level], float(chain.ratio[level])
        moved = chain.clean_from_output(x + 1, x, levels) - chain.clean_from_output(x, x, levels)
        assert -float(moved.mean()) == pytest.approx((1 - abar) / np.sqrt(abar * (1 - ratio)))
        assert -float(moved.mean()) > 1
        ambient = global_chain(SCHEDULE, T0, "continued", "ambient")
        moved = ambient.clean_from_output(x + 1, x, levels) - ambient.clean_from_output(x, x, levels)
        assert float(moved.mean()) == pytest.approx(1.0)
