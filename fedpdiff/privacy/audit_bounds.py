"""Bounds on mu and epsilon from scores of the two images of a pair.

Scores are higher for the second image. Thresholds must be fixed before the scores are seen; the error rates
are then exact (Clopper & Pearson 1934) and shared out among thresholds by Bonferroni.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import beta, binom

Scores = NDArray[np.float64]


def at_least(successes: int, trials: int, error: float) -> float:
    """Return the one-sided lower Clopper-Pearson bound of a probability, wrong with probability ``error``."""
    return float(beta.ppf(error, successes, trials - successes + 1)) if successes > 0 else 0.0


def at_most(successes: int, trials: int, error: float) -> float:
    """Return the one-sided upper Clopper-Pearson bound."""
    return float(beta.ppf(1 - error, successes + 1, trials - successes)) if successes < trials else 1.0


def mu_interval(
    first: Scores, second: Scores, thresholds: Sequence[float], error: float
) -> tuple[float, float]:
    """Return bounds on mu, from the Gaussian trade-off mu = Phi^-1(TPR) - Phi^-1(FPR) at each threshold.

    Parameters
    ----------
    first, second
        Scores under either image, each of shape (any,).
    thresholds
        Fixed in advance.
    error
        Chance that mu lies outside the interval, when the mechanism is Gaussian.

    Returns
    -------
    tuple of float
        Possibly infinite, where the scores are too few to see an error.
    """
    share = error / (4 * len(thresholds))  # four one-sided bounds at each threshold
    low, high = -math.inf, math.inf
    for threshold in thresholds:
        false, true = int((first > threshold).sum()), int((second > threshold).sum())
        tpr = at_least(true, len(second), share), at_most(true, len(second), share)
        fpr = at_least(false, len(first), share), at_most(false, len(first), share)
        low = max(low, float(ndtri(tpr[0]) - ndtri(fpr[1])))
        high = min(high, float(ndtri(tpr[1]) - ndtri(fpr[0])))
    return low, high


def epsilon_at_least(
    first: Scores, second: Scores, thresholds: Sequence[float], delta: float, error: float
) -> float:
    """Return a lower bound on epsilon that assumes nothing about the mechanism: log((P(A) - delta) / Q(A)).

    Parameters
    ----------
    thresholds
        Fixed in advance; A is "above one" or "at most minus one", against either image.
    delta
        Of the guarantee that is tested.
    error
        Chance that the bound exceeds the true epsilon.
    """
    share = error / (4 * len(thresholds))
    best = 0.0
    for threshold in thresholds:
        upper, lower = (second > threshold, first > threshold), (first <= -threshold, second <= -threshold)
        for inside, outside in (upper, lower):
            p = at_least(int(inside.sum()), len(inside), share)
            q = at_most(int(outside.sum()), len(outside), share)
            if p > delta:
                best = max(best, math.log((p - delta) / q))
    return best


def _one_run_p_value(images: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the chance of so many right guesses (Steinke et al. 2023, Theorem 5.2)."""
    q = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, q))
    fewer = np.arange(1, right + 1)
    excess = (binom.sf(right - fewer - 1, guesses, q) - tail) / fewer
    return min(1.0, tail + max(0.0, float(excess.max(initial=0.0))) * 2 * images * delta)


def one_run_epsilon(
    scores: Scores, second: NDArray[np.bool_], guesses: int, delta: float, error: float
) -> float:
    """Return the lower bound on epsilon of Steinke, Nasr & Jagielski (2023) from one run.

    Parameters
    ----------
    scores
        Shape (N,), of all images.
    second
        bool, shape (N,): which image each was, drawn by fair coins.
    guesses
        How many of the most extreme scores are guessed, half of them on each side; fixed in advance.
    delta
        Of the guarantee that is tested.
    error
        Chance that the bound exceeds the true epsilon.
    """
    order, half = np.argsort(scores), guesses // 2
    right = int((~second[order[:half]]).sum() + second[order[len(order) - half :]].sum())

    def refuted(epsilon: float) -> bool:
        return _one_run_p_value(len(scores), 2 * half, right, epsilon, delta) < error

    low, high = 0.0, 1.0
    while refuted(high) and high < 64:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
