"""Whether public images are private ones: the same pictures, also saved again or in another format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedpdiff.types import LabelledImages

# Root mean square over all values. Another rounding or a new JPEG is well below; the two most alike of
# scikit-learn's 8x8 digits are twice as far apart.
TOLERANCE = 0.02
_CHUNK_VALUES = 1 << 24


def count_shared(public: LabelledImages, private: LabelledImages) -> int:
    """Return how many of the public images are equal to a private one, up to ``TOLERANCE`` of the range.

    Parameters
    ----------
    public, private
        Of the same shape, after the same preprocessing.
    """
    if not len(public) or not len(private):
        return 0
    ours, theirs = _rows(public), _rows(private)
    squares = np.einsum("nd,nd->n", theirs, theirs)
    nearest = np.full(len(ours), np.inf)
    step = max(1, _CHUNK_VALUES // len(theirs))
    for start in range(0, len(ours), step):
        part = ours[start : start + step]
        # |a - b|^2 = |a|^2 + |b|^2 - 2 <a, b>, exact to far less than the tolerance.
        products = part @ theirs.T
        nearest[start : start + step] = np.einsum("nd,nd->n", part, part) + (squares - 2 * products).min(1)
    limit = ours.shape[1] * (255 * TOLERANCE) ** 2
    return int((nearest <= limit).sum())


def _rows(images: LabelledImages) -> NDArray[np.float32]:
    return images.images.numpy().reshape(len(images), -1).astype(np.float32) - np.float32(127.5)
