"""The noise schedule, numbered like the paper: level t = 0 is the clean image, t = T almost pure noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import ConfigError

SCHEDULES = ("linear", "cosine")


def _betas(name: str, steps: int) -> NDArray[np.float64]:
    if name == "linear":  # Ho et al. 2020, section 4
        return np.linspace(1e-4, 0.02, steps)
    if name == "cosine":  # Nichol & Dhariwal 2021, equation 17; betas capped at 0.999 as in section 3.2
        time = np.arange(steps + 1) / steps
        curve = np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - curve[1:] / curve[:-1], 0.999)
    raise ConfigError(f"schedule = {name!r}: must be one of {', '.join(SCHEDULES)}")


class NoiseSchedule:
    """Variance-preserving schedule ``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) z`` (Ho et al. 2020, eq. 4).

    Parameters
    ----------
    name
        ``"linear"`` (beta 1e-4 .. 0.02) or ``"cosine"``.
    steps
        T, the number of forward steps.

    Attributes
    ----------
    alpha_bar
        float64, shape (T + 1,). ``alpha_bar[t]`` is the product of ``1 - beta`` over the first t steps, so
        ``alpha_bar[0] = 1`` and level t is index ``t - 1`` of diffusers' ``alphas_cumprod``.

    Raises
    ------
    ConfigError
        For an unknown name.
    """

    def __init__(self, name: str, steps: int = 1000) -> None:
        self.name = name
        self.steps = steps
        self.alpha_bar: NDArray[np.float64] = np.concatenate([[1.0], np.cumprod(1 - _betas(name, steps))])

    def noise_to_signal(self, t: int) -> float:
        """Return s = sqrt((1 - abar_t) / abar_t), the noise added per unit of signal at level t."""
        return math.sqrt((1 - self.alpha_bar[t]) / self.alpha_bar[t])
