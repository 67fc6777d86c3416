"""The ball that images are clipped to: its centre and radius, chosen from public images alone.

Chosen from private images they would leak by themselves, outside the guarantee.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.mechanism import largest_norm

CentreRule = Literal["none", "public-scalar", "public-mean"]
RadiusRule = Literal["fixed", "public-median", "none"]


def choose_centre(
    rule: CentreRule, public: ArrayLike | None, shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Return the centre, float32 of ``shape`` (C, H, W) in [-1, 1].

    Parameters
    ----------
    rule
        ``none``: mid-grey, 0; ``public-scalar``: the mean of all pixels; ``public-mean``: the mean image.
    public
        Public images, float (N, C, H, W) in [-1, 1]; needed by the public rules.
    shape
        Of one image.

    Raises
    ------
    PrivacyError
        When a public rule is asked for without public images of this shape.
    """
    if rule == "none":
        return np.zeros(shape, np.float32)
    images = _public(f"centre {rule!r}", public, shape)
    mean = images.mean(axis=0) if rule == "public-mean" else np.full(shape, images.mean())
    return mean.astype(np.float32)


def choose_radius(
    rule: RadiusRule, fixed: float, public: ArrayLike | None, centre: NDArray[np.float32]
) -> float:
    """Return C: ``fixed``, the median norm of public images, or one so large that nothing is clipped."""
    if rule == "fixed":
        return fixed
    shape = (centre.shape[0], centre.shape[1], centre.shape[2])
    if rule == "none":
        return largest_norm(centre, shape)
    difference = _public(f"clip-rule {rule!r}", public, shape) - centre
    return float(np.median(np.sqrt(np.einsum("nchw,nchw->n", difference, difference))))


def _public(name: str, public: ArrayLike | None, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    images = np.asarray(public if public is not None else np.empty((0, *shape)), np.float64)
    if len(images) == 0:
        raise PrivacyError(
            f"{name} needs public images, but there are none; set public-fraction above 0 or another rule"
        )
    if images.shape[1:] != shape:
        raise PrivacyError(f"{name} has public images of shape {images.shape[1:]}, but needs {shape}")
    return images
