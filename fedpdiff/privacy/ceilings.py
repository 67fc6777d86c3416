"""What no attack on one mu-GDP release can exceed (Dong, Roth & Su 2022, Gaussian trade-off curve)."""

from __future__ import annotations

import math

from scipy.special import ndtr, ndtri


def auc(mu: float) -> float:
    """Return the largest area under the ROC curve when telling one image from one other."""
    return float(ndtr(mu / math.sqrt(2)))


def balanced_accuracy(mu: float) -> float:
    """Return the largest share of right guesses between two equally likely images."""
    return float(ndtr(mu / 2))


def tpr_at_fpr(mu: float, fpr: float) -> float:
    """Return the largest true-positive rate at false-positive rate ``fpr``."""
    return float(ndtr(ndtri(fpr) + mu))


def reidentification(mu: float, candidates: int) -> float:
    """Return the largest chance to pick the right one of ``candidates`` equally likely images."""
    return guessing(mu, 1.0 / candidates)


def guessing(mu: float, chance: float) -> float:
    """Return the largest share of right guesses of anything (class, identity) about a released image.

    ``chance`` is the share of the most common answer. All images lie within C = (sensitivity / 2) of the
    ball's centre, so each is at most mu/2 from the release of the centre itself, where no guess is right more
    often than ``chance``; the trade-off curve is concave, hence the bound on the average (after Hayes,
    Mahloujifar & Balle 2023).
    """
    return float(ndtr(ndtri(chance) + mu / 2))
