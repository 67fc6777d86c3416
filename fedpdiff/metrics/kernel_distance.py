"""Kernel distance between two sets of features (KID; Binkowski et al., 2018, arXiv 1801.01401).

The squared maximum mean discrepancy with the kernel k(x, y) = (x y / d + 1)^3, by the unbiased estimator

    sum_{i != j} k(x_i, x_j) / (m (m - 1)) + sum_{i != j} k(y_i, y_j) / (n (n - 1)) - 2 mean k(x_i, y_j),

so that, unlike the Frechet distance, it does not depend on how many images there are; by chance it can be a
little below 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HIGHER_IS_BETTER = False
LOWER_BOUND = None
UPPER_BOUND = None
_CHUNK = 1024


def kernel_distance(real: NDArray[np.float64], fake: NDArray[np.float64]) -> float | None:
    """Return the unbiased squared maximum mean discrepancy of two sets of features.

    Parameters
    ----------
    real, fake
        Features, shape (n, d) and (m, d), finite.

    Returns
    -------
    float or None
        ``None`` when either side has fewer than two images.
    """
    if len(real) < 2 or len(fake) < 2:
        return None
    within = [
        _sum(side, side) - float(_kernel((side * side).sum(1), side.shape[1]).sum()) for side in (real, fake)
    ]
    sizes = [len(side) * (len(side) - 1) for side in (real, fake)]
    across = _sum(real, fake) / (len(real) * len(fake))
    return within[0] / sizes[0] + within[1] / sizes[1] - 2 * across


def _kernel(products: NDArray[np.float64], dimension: int) -> NDArray[np.float64]:
    result: NDArray[np.float64] = (products / dimension + 1) ** 3
    return result


def _sum(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the sum of the kernel over all pairs."""
    parts = (one[start : start + _CHUNK] for start in range(0, len(one), _CHUNK))
    return sum(float(_kernel(part @ other.T, one.shape[1]).sum()) for part in parts)
