"""Improved precision and recall for generative models (Kynkaanniemi et al., 2019, arXiv 1904.06991).

The manifold of a set is the union of balls around its features, each reaching to its k-th nearest neighbour
within the set (their equation 1). Precision is the share of generated images inside the real manifold
(fidelity); recall the share of real images inside the generated one (variety).
"""

from __future__ import annotations

import numpy as np
import torch

HIGHER_IS_BETTER = True
LOWER_BOUND = 0.0
UPPER_BOUND = 1.0
NEIGHBOURS = 3  # k of the paper
_CHUNK = 2048


def precision_recall(
    real: np.ndarray, fake: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[float | None, float | None]:
    """Return precision and recall of generated features, each in [0, 1].

    Parameters
    ----------
    real, fake
        Features, shape (n, d) and (m, d).
    neighbours
        k: each ball reaches to the k-th nearest neighbour, itself not counted.

    Returns
    -------
    tuple
        ``(None, None)`` when either side has no more than k images.
    """
    if len(real) <= neighbours or len(fake) <= neighbours:
        return None, None
    a, b = torch.from_numpy(np.asarray(real, np.float64)), torch.from_numpy(np.asarray(fake, np.float64))
    return _share_inside(b, a, _radii(a, neighbours)), _share_inside(a, b, _radii(b, neighbours))


def _radii(points: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Return each point's distance to its k-th nearest neighbour; the nearest is the point itself."""
    nearest = [
        torch.cdist(part, points).kthvalue(neighbours + 1, dim=1).values for part in points.split(_CHUNK)
    ]
    return torch.cat(nearest)


def _share_inside(points: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor) -> float:
    inside = [(torch.cdist(part, centres) <= radii).any(dim=1) for part in points.split(_CHUNK)]
    return float(torch.cat(inside).double().mean())
