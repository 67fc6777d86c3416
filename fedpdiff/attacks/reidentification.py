"""Whose upload is this? The server holds M candidate images and picks the one nearest to the upload.

With y = a u_j + b z and every candidate equally likely, argmin_j |y - a u_j| is the most likely one, so no
other attack that knows the candidates (a reconstruction included) is right more often. The release keeps the
rate below Phi(Phi^-1(1/M) + mu/2) for ANY candidates (:func:`fedpdiff.privacy.ceilings.reidentification`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedpdiff.attacks.uploads import Labels, Proportion, Rows, labels_for, rows
from fedpdiff.errors import ConfigError, DataError
from fedpdiff.privacy import ceilings

_CHUNK = 512
NO_GROUP = -1


@dataclass(frozen=True)
class Reidentification:
    """Result of re-identifying every upload once.

    Attributes
    ----------
    found
        How many uploads were matched to their own image.
    candidates
        Mean number M of candidates per upload.
    chance
        Expected rate of guessing blindly, the mean of 1/M.
    cap
        What no attack can exceed in expectation: the mean over the uploads of their group's cap.
    """

    found: Proportion
    candidates: float
    chance: float
    cap: float

    @property
    def rate(self) -> float:
        """Share of uploads matched to their own image."""
        return self.found.rate

    def exceeds_cap(self, confidence: float = 0.999) -> bool:
        """Return whether the rate is above the cap beyond what luck explains: the accounting is wrong."""
        return self.found.interval(confidence).low > self.cap


def reidentify(
    observed: ArrayLike, gallery: ArrayLike, scale: float, mu: float, groups: ArrayLike | None = None
) -> Reidentification:
    """Match each observation to the nearest candidate.

    Parameters
    ----------
    observed
        Uploads y, or reconstructions of u; shape (n, ...).
    gallery
        Clipped, centred candidates u; row i is the truth of row i of ``observed``.
    scale
        What candidates are multiplied by before the comparison: a = sqrt(abar) for uploads, 1 for
        reconstructions.
    mu
        Of the release (:func:`fedpdiff.privacy.calibration.mu_of`), for the cap.
    groups
        int, shape (n,): each observation is compared with the candidates of its own group only. Its label
        (disclosed) gives re-identification within the class, :func:`random_groups` galleries of a size M.
        ``NO_GROUP`` leaves a row out. ``None``: one group.

    Raises
    ------
    DataError
        When shapes differ or every row is left out.
    """
    y, u = rows(observed), rows(gallery)
    if y.shape != u.shape:
        raise DataError(f"{y.shape} observations cannot be matched to a gallery of shape {u.shape}")
    member = np.zeros(len(y), np.int64) if groups is None else labels_for(groups, len(y), "galleries")
    hits, sizes = 0, []
    for group in np.unique(member[member != NO_GROUP]):
        inside = member == group
        nearest = _nearest(y[inside], scale * u[inside])
        hits += int((nearest == np.arange(len(nearest))).sum())
        sizes.append(len(nearest))
    if not sizes:
        raise DataError("there is no upload to re-identify: every row was left out")
    weights = np.array(sizes) / sum(sizes)
    caps = [ceilings.reidentification(mu, size) for size in sizes]
    return Reidentification(
        found=Proportion(hits, sum(sizes)),
        candidates=float(weights @ np.array(sizes)),
        chance=float(weights @ (1 / np.array(sizes))),
        cap=float(weights @ np.array(caps)),
    )


def random_groups(count: int, size: int, generator: np.random.Generator) -> Labels:
    """Return a random division of ``count`` rows into galleries of exactly ``size``; the rest has no group.

    Raises
    ------
    ConfigError
        When ``size`` is not in 1 .. ``count``.
    """
    if not 1 <= size <= count:
        raise ConfigError(
            f"galleries of {size} candidates: must be between 1 and the {count} images there are"
        )
    groups = np.full(count, NO_GROUP, np.int64)
    order = generator.permutation(count)
    used = count - count % size
    groups[order[:used]] = np.arange(used) // size
    return groups


def _nearest(y: Rows, candidates: Rows) -> Labels:
    """Return the index of the nearest candidate; of k equal ones the first, as good as a guess."""
    half_norm = 0.5 * (candidates**2).sum(1)
    parts = [
        (half_norm - y[start : start + _CHUNK] @ candidates.T).argmin(1) for start in range(0, len(y), _CHUNK)
    ]
    return np.concatenate(parts).astype(np.int64)
