"""Equal mixes of classes on both sides of a comparison: otherwise an attack mostly learns the classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def matched_rows(
    first: ArrayLike, second: ArrayLike, generator: np.random.Generator, most: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return positions of as many images of each class in both lists of labels, in random order.

    Parameters
    ----------
    first, second
        int labels of the two sets.
    generator
        Draws and shuffles.
    most
        At most about so many positions on each side, in the same proportions of classes; ``None``: all.

    Returns
    -------
    tuple
        int64 positions in ``first`` and in ``second``, equally many; none where no class is in both.
    """
    one, other = np.asarray(first), np.asarray(second)
    positions: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    classes = np.intersect1d(one, other)
    sizes = {int(k): min(int((one == k).sum()), int((other == k).sum())) for k in classes}
    total = sum(sizes.values())
    share = 1.0 if most is None or total <= most else most / total
    for label, size in sizes.items():
        count = max(1, round(share * size))
        for side, labels in zip(positions, (one, other), strict=True):
            side.append(generator.permutation(np.flatnonzero(labels == label))[:count])
    empty = np.empty(0, np.int64)
    left, right = (generator.permutation(np.concatenate([empty, *side])) for side in positions)
    return left, right
