"""What each candidate budget needs and leaves: the noise level, the signal, what attacks can reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.calibration import mu_of, smallest_t0
from fedpdiff.privacy.statement import privacy_statement

_CURVE_POINTS = 160


@dataclass(frozen=True)
class Trial:
    """The public facts that a budget is tried on.

    Parameters
    ----------
    alpha_bar
        float64, shape (T + 1,), decreasing; ``alpha_bar[t]`` after t steps, ``alpha_bar[0] = 1``.
    schedule
        Its name, only stated.
    clip
        C in pixel units.
    delta
        Strictly between 0 and 1.
    signal_power
        Mean squared norm of the clipped, centred public images, in (0, C^2].
    """

    alpha_bar: NDArray[np.float64]
    schedule: str
    clip: float
    delta: float
    signal_power: float

    def at(self, t0: int) -> dict[str, Any]:
        """Return the privacy statement at ``t0`` with the signal that is left.

        Returns
        -------
        dict
            The keys of ``fedpdiff privacy --json`` and ``signal_amplitude``, sqrt(abar), and
            ``signal_to_noise``, abar E|u|^2 / (1 - abar): the mean squared norm of an image in the upload
            over the noise variance of one value.
        """
        abar = float(self.alpha_bar[t0])
        return privacy_statement(abar, self.clip, self.delta, t0, self.schedule) | {
            "signal_amplitude": math.sqrt(abar),
            "signal_to_noise": abar * self.signal_power / (1 - abar),
        }


def frontier(trial: Trial, epsilons: Sequence[float]) -> list[dict[str, Any]]:
    """Return one row per candidate epsilon, from the strictest to the loosest.

    Returns
    -------
    list of dict
        ``budget``, the candidate, and the keys of :meth:`Trial.at` for the smallest t0 that keeps it; or
        ``budget`` and ``unreachable``, the reason, where the schedule has no such t0.

    Raises
    ------
    PrivacyError
        When a candidate is not a number above 0.
    """
    rows = []
    for epsilon in sorted(set(epsilons)):
        if not 0 < epsilon < math.inf:
            raise PrivacyError(f"a candidate epsilon is {epsilon:g}, but must be a number above 0")
        rows.append({"budget": epsilon, **_row(trial, epsilon)})
    return rows


def _row(trial: Trial, epsilon: float) -> dict[str, Any]:
    last = len(trial.alpha_bar) - 1
    least = epsilon_from_mu(mu_of(float(trial.alpha_bar[last]), trial.clip), trial.delta)
    if least > epsilon:
        return {"unreachable": f"all {last} steps of the {trial.schedule} schedule give epsilon {least:.3g}"}
    return trial.at(smallest_t0(trial.alpha_bar, trial.clip, epsilon, trial.delta))


def curve(trial: Trial, lowest: float, highest: float) -> list[dict[str, Any]]:
    """Return :meth:`Trial.at` for noise levels whose epsilon lies between the two, in order of t0.

    At most about 160 of them, evenly spaced in t0: enough to draw a line.
    """
    levels = [
        t0
        for t0 in range(1, len(trial.alpha_bar))
        if lowest <= epsilon_from_mu(mu_of(float(trial.alpha_bar[t0]), trial.clip), trial.delta) <= highest
    ]
    return [trial.at(t0) for t0 in levels[:: max(1, len(levels) // _CURVE_POINTS)]]
