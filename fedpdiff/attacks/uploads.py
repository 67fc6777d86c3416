"""What every attack on uploads starts from: rows of pixels, a known share of signal, and exact intervals.

An upload is y = a u + b z with a = sqrt(abar_t0), b = sqrt(1 - abar_t0), z ~ N(0, I), and u the clipped,
centred image (:func:`fedpdiff.privacy.mechanism.clip`). The attacks work on u throughout; adding the centre
changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedpdiff.attacks.statistics import CONFIDENCE, Rate, exact_rate
from fedpdiff.errors import ConfigError, DataError

Rows = NDArray[np.float64]
Labels = NDArray[np.int64]


def rows(images: ArrayLike) -> Rows:
    """Return images of shape (n, ...) as float64 rows of shape (n, d).

    Raises
    ------
    DataError
        When there is no axis besides n, or a value is not finite.
    """
    values = np.asarray(images, np.float64)
    if values.ndim < 2:
        raise DataError(f"images have shape {values.shape}, but must have shape (n, ...) with pixels")
    if not np.isfinite(values).all():
        raise DataError("images hold values that are not finite")
    return values.reshape(len(values), math.prod(values.shape[1:]))


def labels_for(labels: ArrayLike, count: int, of: str) -> Labels:
    """Return labels as int64 of shape (count,).

    Raises
    ------
    DataError
        When there is not exactly one whole number for each of the ``count`` images.
    """
    values = np.asarray(labels)
    if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
        raise DataError(
            f"{of} need {count} whole-number labels, but got {values.dtype} of shape {values.shape}"
        )
    return values.astype(np.int64)


def signal_and_noise(alpha_bar: float) -> tuple[float, float]:
    """Return (a, b) = (sqrt(abar), sqrt(1 - abar)).

    Raises
    ------
    ConfigError
        When ``alpha_bar`` is not in (0, 1).
    """
    if not 0 < alpha_bar < 1:
        raise ConfigError(
            f"alpha_bar = {alpha_bar!r}: must be in (0, 1), the share of signal at level t0; "
            "take it from the schedule"
        )
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)


def noised(images: ArrayLike, alpha_bar: float, generator: np.random.Generator) -> Rows:
    """Return a u + b z of the shape of ``images``, what an attacker makes of public images.

    It is NOT a private release: its noise is seeded and in floating point.
    """
    a, b = signal_and_noise(alpha_bar)
    values = np.asarray(images, np.float64)
    result: Rows = a * values + b * generator.standard_normal(values.shape)
    return result


@dataclass(frozen=True)
class Proportion:
    """How often an attack succeeded.

    Attributes
    ----------
    hits, trials
        Counts; ``trials`` at least 1.

    Raises
    ------
    DataError
        When the counts are impossible.
    """

    hits: int
    trials: int

    def __post_init__(self) -> None:
        """Refuse counts that are no proportion."""
        if not 0 <= self.hits <= self.trials or self.trials < 1:
            raise DataError(f"{self.hits} of {self.trials} is no proportion; an attack needs trials")

    @property
    def rate(self) -> float:
        """Share of successes, in [0, 1]."""
        return self.hits / self.trials

    @property
    def standard_error(self) -> float:
        """Binomial standard error at the observed rate; 0 at 0 and 1, where only the interval says more."""
        return math.sqrt(self.rate * (1 - self.rate) / self.trials)

    def interval(self, confidence: float = CONFIDENCE) -> Rate:
        """Return the rate with its exact (Clopper & Pearson 1934) interval.

        For fixed images with independent noise the successes have different chances; their sum then varies
        less than a binomial one, so the interval covers at least as often as it says.
        """
        return exact_rate(self.hits, self.trials, confidence)
