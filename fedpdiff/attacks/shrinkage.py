"""Trust in a reconstruction, learnt on the attacker's own public images.

A network's estimate at high noise carries its own error, large enough to be worse than no upload at all. An
attacker with public images noises some of them, attacks those, and learns how far to go from the guess
without an upload towards the estimate. What is left is never much worse than the guess, so that a recovery
score near 1 means that the upload says little, not that the network is bad.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedpdiff.attacks.uploads import Rows, rows
from fedpdiff.errors import DataError


def best_trust(estimate: ArrayLike, truth: ArrayLike, guess: ArrayLike) -> float:
    """Return the w that brings guess + w (estimate - guess) nearest to the truth, by least squares.

    Parameters
    ----------
    estimate, truth, guess
        Shape (n, ...): the attack on the attacker's own noised public images, these images, and the guess
        without an upload. The images should not be those that model or guess were fitted to.

    Returns
    -------
    float
        In 0 .. 1: an attacker who knows what an estimate is never goes away from it, nor beyond it.

    Raises
    ------
    DataError
        When shapes differ or there is no image.
    """
    found, true, before = rows(estimate), rows(truth), rows(guess)
    if not found.shape == true.shape == before.shape or len(true) == 0:
        raise DataError(
            f"trust in a reconstruction needs images of one shape, but got {found.shape}, {true.shape} and "
            f"{before.shape}"
        )
    step = found - before
    energy = float((step**2).sum())
    return float(np.clip((step * (true - before)).sum() / energy, 0.0, 1.0)) if energy > 0 else 0.0


def trusted(estimate: ArrayLike, guess: ArrayLike, trust: float) -> Rows:
    """Return guess + trust (estimate - guess), shape (n, d)."""
    before = rows(guess)
    result: Rows = before + trust * (rows(estimate) - before)
    return result
