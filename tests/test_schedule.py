"""The noise schedule: diffusers' values under the paper's numbering."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import DDPMScheduler

from fedpdiff.errors import ConfigError
from fedpdiff.schedule import NoiseSchedule


@pytest.mark.parametrize(("name", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
@pytest.mark.parametrize("steps", [50, 1000])
def test_level_t_is_diffusers_index_t_minus_1(name: str, theirs: str, steps: int) -> None:
    reference = DDPMScheduler(num_train_timesteps=steps, beta_schedule=theirs).alphas_cumprod.numpy()
    schedule = NoiseSchedule(name, steps)
    assert schedule.alpha_bar.shape == (steps + 1,)
    assert schedule.alpha_bar[0] == 1.0
    np.testing.assert_allclose(schedule.alpha_bar[1:], reference, atol=1e-6)


def test_noise_at_the_papers_hand_off() -> None:
    assert NoiseSchedule("linear", 1000).noise_to_signal(690) == pytest.approx(11.125, abs=5e-4)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [10, 1000, 10000])
def test_signal_falls_at_every_level(name: str, steps: int) -> None:
    alpha_bar = NoiseSchedule(name, steps).alpha_bar
    assert np.all(np.diff(alpha_bar) < 0)
    assert np.all(alpha_bar > 0)


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="schedule = 'sigmoid': must be one of linear, cosine"):
        NoiseSchedule("sigmoid")
