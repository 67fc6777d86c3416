"""From a privacy budget to the number of forward steps t0, and from t0 to mu."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.accountant import epsilon_from_mu, mu_from_epsilon


def mu_of(alpha_bar_t0: float, clip: float) -> float:
    """Return mu = 2 C sqrt(abar) / sqrt(1 - abar) of one release (replace-one, ball of radius C).

    Parameters
    ----------
    alpha_bar_t0
        abar after t0 forward steps, in [0, 1).
    clip
        C, the radius that images are clipped to, in pixel units (pixels in [-1, 1]), above 0.

    Raises
    ------
    PrivacyError
        When an argument is out of range.
    """
    if not 0 <= alpha_bar_t0 < 1:
        raise PrivacyError(f"alpha_bar is {alpha_bar_t0!r}, but must be in [0, 1): no noise, no privacy")
    if not 0 < clip < math.inf:
        raise PrivacyError(f"clip is {clip!r}, but must be a positive, finite norm in pixel units")
    return 2 * clip * math.sqrt(alpha_bar_t0 / (1 - alpha_bar_t0))


def smallest_t0(alpha_bar: NDArray[np.float64], clip: float, epsilon: float, delta: float) -> int:
    """Return the smallest number of forward steps whose release is (epsilon, delta)-private.

    Parameters
    ----------
    alpha_bar
        float64, shape (T + 1,), decreasing; ``alpha_bar[t]`` after t steps, ``alpha_bar[0] = 1``.
    clip
        C in pixel units.
    epsilon, delta
        The budget; epsilon above 0.

    Raises
    ------
    PrivacyError
        When an argument is out of range or even T steps are not enough.
    """
    if alpha_bar.ndim != 1 or len(alpha_bar) < 2 or alpha_bar[0] != 1 or np.any(np.diff(alpha_bar) >= 0):
        raise PrivacyError("alpha_bar must have shape (T + 1,), begin with 1 and decrease at every step")
    if not epsilon > 0:
        raise PrivacyError(f"epsilon is {epsilon!r}, but must be above 0")
    largest_mu = mu_from_epsilon(epsilon, delta)
    for t0 in range(1, len(alpha_bar)):
        mu = mu_of(float(alpha_bar[t0]), clip)
        # The second test guards the last digit: the epsilon we state must not exceed the one asked for.
        if mu <= largest_mu * (1 + 1e-9) and epsilon_from_mu(mu, delta) <= epsilon:
            return t0
    reached = epsilon_from_mu(mu_of(float(alpha_bar[-1]), clip), delta)
    raise PrivacyError(
        f"epsilon is {epsilon:g}, but this noise schedule reaches only {reached:.3g} after all "
        f"{len(alpha_bar) - 1} steps at clip {clip:g}, delta {delta:g}; "
        "ask for a larger epsilon or a smaller clip"
    )
