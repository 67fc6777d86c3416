"""Frechet distance between Gaussians fitted to two sets of features (Heusel et al., 2017), by pytorch-fid.

    d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

It is biased upwards by about 1/n, so compare only numbers made from equally many images of the same classes.
"""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
from pytorch_fid.fid_score import calculate_frechet_distance

HIGHER_IS_BETTER = False
LOWER_BOUND = 0.0
UPPER_BOUND = None


def frechet(real: np.ndarray, fake: np.ndarray) -> float | None:
    """Return the Frechet distance of two sets of features.

    Parameters
    ----------
    real, fake
        Features, shape (n, d) and (m, d), finite.

    Returns
    -------
    float or None
        At least 0. ``None`` when either side has no more images than features (n <= d or m <= d): the fitted
        covariance is then singular by construction and the distance mostly measures the number of images.
    """
    dimension = real.shape[1]
    if len(real) <= dimension or len(fake) <= dimension:
        return None
    return _distance(_gaussian(real), _gaussian(fake))


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.mean(axis=0), np.cov(features, rowvar=False)


def _distance(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    # A model that collapsed onto few images gives a singular covariance. The matrix root copes, but scipy
    # warns and pytorch-fid prints; neither tells the reader anything that the distance does not.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            distance = calculate_frechet_distance(*one, *other)
        except ValueError:  # an imaginary part from rounding: lift the zero eigenvalues a little
            ridge = 1e-6 * np.eye(len(one[1])) * max(1e-12, float(np.trace(one[1] + other[1])) / len(one[1]))
            distance = calculate_frechet_distance(one[0], one[1] + ridge, other[0], other[1] + ridge)
    return max(0.0, float(distance))
