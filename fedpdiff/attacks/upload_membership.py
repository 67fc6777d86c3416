"""Was a known image among the uploads? The Bayes score of a server that does not know its position.

For candidate u among n uploads, by Bayes' rule with a uniform position:

    S(u) = log (1/n) sum_i p(y_i | u) / p_pop(y_i),    p(y | u) = N(y; a u, b^2 I)

with p_pop the density of an upload of an image that is not known, from public images. No other test of "one
of the uploads is of u" against "none is" has more power (Neyman & Pearson 1933), as far as p_pop is right.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from fedpdiff.attacks.linear import GaussianImages
from fedpdiff.attacks.uploads import Rows, labels_for, rows, signal_and_noise
from fedpdiff.errors import DataError

_CHUNK = 512


def upload_membership_scores(
    candidates: ArrayLike,
    uploads: ArrayLike,
    alpha_bar: float,
    log_population: ArrayLike,
    candidate_labels: ArrayLike | None = None,
    upload_labels: ArrayLike | None = None,
) -> Rows:
    """Return -S(u) of every candidate: LOWER means more likely a member.

    Parameters
    ----------
    candidates
        Clipped, centred images u, shape (m, ...).
    uploads
        y, shape (n, ...), all that the server holds.
    alpha_bar
        Share of signal in the uploads, in (0, 1).
    log_population
        log p_pop(y_i), shape (n,): :meth:`~fedpdiff.attacks.linear.GaussianImages.log_density`.
    candidate_labels, upload_labels
        Give both and a candidate is looked for among the uploads of its class only (labels are disclosed).

    Returns
    -------
    float64 array of shape (m,), finite. A candidate of a class that nobody uploaded scores highest of all.

    Raises
    ------
    DataError
        When there is no upload, lengths differ, or only one of the two label lists is given.
    """
    u, y = rows(candidates), rows(uploads)
    population = np.asarray(log_population, np.float64)
    if len(y) == 0 or population.shape != (len(y),) or u.shape[1] != y.shape[1]:
        raise DataError(
            f"{len(y)} uploads of {y.shape[1]} values need {len(y)} population densities (got "
            f"{population.shape}) and candidates of as many values (got {u.shape[1]})"
        )
    if (candidate_labels is None) != (upload_labels is None):
        raise DataError("give the labels of candidates and of uploads, or neither")
    if candidate_labels is None or upload_labels is None:
        return -_log_ratio(u, y, alpha_bar, population)
    theirs = labels_for(candidate_labels, len(u), "candidates")
    known = labels_for(upload_labels, len(y), "uploads")
    scores = np.full(len(u), np.finfo(np.float64).max)  # surely no member
    for label in np.unique(theirs):
        asked, there = theirs == label, known == label
        if there.any():
            scores[asked] = -_log_ratio(u[asked], y[there], alpha_bar, population[there])
    return scores


def attack_upload_membership(
    model: GaussianImages, candidates: ArrayLike, uploads: ArrayLike, alpha_bar: float
) -> Rows:
    """Return :func:`upload_membership_scores` with the population that ``model`` describes."""
    return upload_membership_scores(candidates, uploads, alpha_bar, model.log_density(uploads, alpha_bar))


def _log_ratio(u: Rows, y: Rows, alpha_bar: float, log_population: Rows) -> Rows:
    a, b = signal_and_noise(alpha_bar)
    constant = 0.5 * y.shape[1] * math.log(2 * math.pi * b * b)
    # log p(y_i | u) = -(|y_i|^2 - 2 a y_i u + a^2 |u|^2) / (2 b^2) - constant
    own = -0.5 * (y**2).sum(1) / (b * b) - constant - log_population
    result = np.empty(len(u))
    for start in range(0, len(u), _CHUNK):
        part = u[start : start + _CHUNK]
        cross = (a * part @ y.T - 0.5 * a * a * (part**2).sum(1)[:, None]) / (b * b)
        result[start : start + _CHUNK] = logsumexp(cross + own, axis=1)
    return result - math.log(len(y))
