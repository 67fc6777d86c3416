"""The privacy statement of one release: what it guarantees, in numbers that never understate."""

from __future__ import annotations

from typing import Any

from fedpdiff.privacy import ceilings
from fedpdiff.privacy.accountant import epsilon_from_mu, round_up, theorem_5_1_epsilon
from fedpdiff.privacy.calibration import mu_of

UNIT = "one image"
NEIGHBOURS = "its pixels replaced by any others, its label and the number of images unchanged"
ADJACENCY = f"replace-one: {NEIGHBOURS}"


def attack_ceilings(mu: float) -> dict[str, float]:
    """Return the highest success of any attack on one released image, rounded up to three decimals."""
    exact = {
        "auc": ceilings.auc(mu),
        "balanced_accuracy": ceilings.balanced_accuracy(mu),
        "tpr_at_1_percent_fpr": ceilings.tpr_at_fpr(mu, 0.01),
        "tpr_at_0.1_percent_fpr": ceilings.tpr_at_fpr(mu, 0.001),
        "reidentify_1_of_100": ceilings.reidentification(mu, 100),
        "reidentify_1_of_1000": ceilings.reidentification(mu, 1000),
    }
    return {name: round_up(value) for name, value in exact.items()}


def privacy_statement(
    alpha_bar_t0: float, clip: float, delta: float, t0: int, schedule: str
) -> dict[str, Any]:
    """Return what one release of each image guarantees, as ``fedpdiff privacy --json`` prints it.

    Parameters
    ----------
    alpha_bar_t0
        abar after t0 forward steps, in [0, 1).
    clip
        C in pixel units.
    delta
        Strictly between 0 and 1.
    t0
        Number of forward steps (only stated; the numbers follow from ``alpha_bar_t0``).
    schedule
        Name of the noise schedule (only stated).

    Returns
    -------
    dict
        ``epsilon`` (exact, Balle & Wang) and ``epsilon_theorem_5_1`` (PFDM's own bound), both rounded up to
        three decimals; ``delta``, ``mu``, ``t0``, ``alpha_bar``, ``clip``, ``schedule``, ``unit``,
        ``adjacency`` and ``attack_ceilings``. The noise is sampled exactly, so delta has no further part.

    Raises
    ------
    PrivacyError
        When an argument is out of range.
    """
    mu = mu_of(alpha_bar_t0, clip)
    return {
        "epsilon": round_up(epsilon_from_mu(mu, delta)),
        "epsilon_theorem_5_1": round_up(theorem_5_1_epsilon(mu, delta)),
        "delta": delta,
        "mu": mu,
        "t0": t0,
        "alpha_bar": alpha_bar_t0,
        "clip": clip,
        "schedule": schedule,
        "unit": UNIT,
        "adjacency": ADJACENCY,
        "attack_ceilings": attack_ceilings(mu),
    }


def per_pixel_statement(alpha_bar_t0: float, bound: float, delta: float) -> dict[str, Any]:
    """Return the earlier paper version's figure, for one value that changes by at most 2 ``bound``.

    It protects one channel of one position given that everything else may be known: a far weaker unit than an
    image. It is exact for unclipped pixels in [-bound, bound]; with clipping, rounding to the grid moves up
    to d other values by one step of 2^-12 each, which this figure leaves out.
    """
    mu = mu_of(alpha_bar_t0, bound)
    return {
        "unit": "one pixel value of one image: weaker than one image, never to be compared with it",
        "bound": bound,
        "mu": mu,
        "epsilon": round_up(epsilon_from_mu(mu, delta)),
        "epsilon_theorem_5_1": round_up(theorem_5_1_epsilon(mu, delta)),
    }
