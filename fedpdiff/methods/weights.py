"""Weights by name, as they travel and are averaged: choosing, checking, and their moving average."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedpdiff.errors import DataError
from fedpdiff.methods.parts import part_of

Arrays = dict[str, np.ndarray]


def chosen(weights: Mapping[str, np.ndarray], parts: Iterable[str]) -> Arrays:
    """Return the weights that belong to some parts of the network."""
    wanted = frozenset(parts)
    return {name: array for name, array in weights.items() if part_of(name) in wanted}


def check_weights(given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Refuse weights that are not the expected ones in name, shape and dtype, or hold what is no number.

    Raises
    ------
    DataError
        Naming the first difference.
    """
    if set(given) != set(expected):
        wrong = sorted(set(given) ^ set(expected))
        raise DataError(
            f"the weights do not fit the network of the settings: {wrong[0][:80]!r} is "
            f"{'not expected' if wrong[0] in given else 'missing'} ({len(wrong)} such names)"
        )
    for name, array in given.items():
        if array.shape != expected[name].shape or array.dtype != expected[name].dtype:
            raise DataError(
                f"the weights do not fit the network of the settings: {name[:80]!r} is {array.dtype} of "
                f"shape {array.shape}, not {expected[name].dtype} of shape {expected[name].shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"the weights hold values that are not finite, in {name[:80]!r}")


@dataclass
class RunningAverage:
    """Exponential moving average of the aggregates, as if it were taken at every gradient step.

    After rounds 1 .. r of E steps each, with d = decay^E: sum_i d^(r-i) w_i / sum_i d^(r-i). It starts
    without bias, so that after one round it is that round's aggregate.

    Attributes
    ----------
    total
        sum_i d^(r-i).
    weights
        The average.
    """

    total: float = 0.0
    weights: Arrays = field(default_factory=dict)

    def add(self, weights: Mapping[str, np.ndarray], steps: int, decay: float) -> None:
        """Take in the aggregate of a round of so many steps; ``decay`` is per gradient step, 0 .. 1."""
        before = decay**steps * self.total if self.weights else 0.0
        self.total = before + 1.0
        if not before:
            self.weights = {name: array.copy() for name, array in weights.items()}
            return
        share = np.float32(1.0 / self.total)
        for name, array in weights.items():
            self.weights[name] = self.weights[name] + share * (array - self.weights[name])
