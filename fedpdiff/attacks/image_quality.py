"""How close a reconstruction comes to the true image: recovery score, PSNR and SSIM.

The recovery score used throughout is ours:

    R = E|estimate - truth|^2 / E|guess - truth|^2

where the guess is the attacker's best one WITHOUT the upload (class means of public images; for a model,
the mean of its class-conditional samples). 0 is perfect, 1 means that the upload gained nothing, above 1 that
the attack made things worse; it is never cut off. A verdict takes the least R of all attacks mounted: a
sharp sample can have R near 2 where the posterior mean, from the same upload, has R far below 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from fedpdiff.attacks.uploads import Rows, rows
from fedpdiff.errors import DataError

DATA_RANGE = 2.0  # pixels are in [-1, 1]
_SIGMA, _RADIUS = 1.5, 5  # the 11 x 11 window of Wang et al. 2004


@dataclass(frozen=True)
class Recovery:
    """A recovery score R with its standard error over the images (at least 0; 1 = nothing gained)."""

    score: float
    standard_error: float


def recovery(estimate: ArrayLike, truth: ArrayLike, guess: ArrayLike) -> Recovery:
    """Return the recovery score of an attack.

    Parameters
    ----------
    estimate, truth, guess
        Shape (n, ...), all in the same space: the attack's images, the true ones, and the best guess without
        the upload.

    Raises
    ------
    DataError
        When shapes differ, there are fewer than two images, or the guess is right already.
    """
    found, true, before = rows(estimate), rows(truth), rows(guess)
    if not found.shape == true.shape == before.shape or len(true) < 2:
        raise DataError(
            f"recovery needs two or more images of one shape, but got {found.shape}, {true.shape} and "
            f"{before.shape}"
        )
    error, start = ((found - true) ** 2).sum(1), ((before - true) ** 2).sum(1)
    if not start.mean() > 0:
        raise DataError("the guess without the upload is already exact, so an upload cannot be scored")
    score = float(error.mean() / start.mean())
    spread = float((error - score * start).std(ddof=1))  # of a ratio of means, to first order
    return Recovery(score, spread / (float(start.mean()) * math.sqrt(len(true))))


def strongest(scores: Mapping[str, Recovery]) -> tuple[str, Recovery]:
    """Return name and score of the attack that recovered most, the one a verdict must quote."""
    if not scores:
        raise DataError("there is no attack to judge by; mount at least one")
    name = min(scores, key=lambda attack: scores[attack].score)
    return name, scores[name]


def undo_clip(estimate: ArrayLike, original: ArrayLike) -> Rows:
    """Return each estimate times the scalar that brings it nearest to the unclipped original, shape (n, d).

    Clipping scales an image by a factor in (0, 1] that the upload does not tell; this gives it to the
    attacker. Score the guess in the same way.
    """
    found, true = rows(estimate), rows(original)
    energy = (found**2).sum(1)
    factor = np.divide((found * true).sum(1), energy, out=np.zeros(len(found)), where=energy > 0)
    result: Rows = factor[:, None] * found
    return result


def psnr(estimate: ArrayLike, truth: ArrayLike, data_range: float = DATA_RANGE) -> Rows:
    """Return the peak signal-to-noise ratio of each image in decibels, shape (n,); infinite if equal."""
    error = ((rows(estimate) - rows(truth)) ** 2).mean(1)
    with np.errstate(divide="ignore"):
        result: Rows = 10 * np.log10(data_range**2 / error)
    return result


def ssim(estimate: ArrayLike, truth: ArrayLike, data_range: float = DATA_RANGE) -> Rows:
    """Return the mean structural similarity of each image (Wang et al. 2004), shape (n,), in [-1, 1].

    Gaussian window of sigma 1.5 and 11 x 11 pixels, population covariances, edges left out, mean over the
    channels: equal to scikit-image 0.26 with ``gaussian_weights=True, use_sample_covariance=False`` to 1e-12.
    Images below 11 pixels get the largest window that fits, so their values compare only with each other.

    Parameters
    ----------
    estimate, truth
        Shape (n, C, H, W), H and W at least 3.

    Raises
    ------
    DataError
        When shapes differ or are not as above.
    """
    x, y = np.asarray(estimate, np.float64), np.asarray(truth, np.float64)
    if x.shape != y.shape or x.ndim != 4 or min(x.shape[2:]) < 3:
        raise DataError(
            f"SSIM needs two sets of one shape (n, C, H, W) of 3 pixels or more, but got {x.shape} and "
            f"{y.shape}"
        )
    radius = min(_RADIUS, (min(x.shape[2:]) - 1) // 2)

    def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = gaussian_filter(values, _SIGMA, radius=radius, axes=(2, 3))
        return result

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    inner = slice(radius, -radius)
    result: Rows = similarity[:, :, inner, inner].mean(axis=(1, 2, 3))
    return result
