"""Ratios of two things measured under the same conditions, several times over."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t as student


def mean_ratio(ratios: Sequence[float]) -> float:
    """Return the geometric mean of positive ratios."""
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))


def interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of :func:`mean_ratio`; None of a single ratio.

    It is Student's for the mean of the logarithms: of ratios that are log-normal it holds the true mean in
    95 % of experiments, however few there are.
    """
    if len(ratios) < 2:
        return None
    logs = [math.log(ratio) for ratio in ratios]
    half = student.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    middle = statistics.fmean(logs)
    return math.exp(middle - half), math.exp(middle + half)
