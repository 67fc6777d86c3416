"""Gaussian model of clipped images, from public images alone, and the best linear estimate of an upload.

Per class a mean, and one covariance for all of them in factored form S = V diag(l) V' + r (I - V V'). With
y = a u + b z and u ~ N(m, S):

    E[u | y] = m + a S (a^2 S + b^2 I)^-1 (y - a m)         (Wiener 1949; for Gaussian u Tweedie's estimate)
    y ~ N(a m, a^2 S + b^2 I)

This is the strongest attack that uses only second moments, and needs no training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh
from scipy.special import logsumexp

from fedpdiff.attacks.uploads import Labels, Rows, labels_for, rows, signal_and_noise
from fedpdiff.errors import ConfigError, DataError


@dataclass(frozen=True)
class GaussianImages:
    """Images as a mixture of Gaussians with one covariance.

    Attributes
    ----------
    means
        float64, shape (K, d): mean of each class; K = 1 for images without labels.
    shares
        float64, shape (K,), sums to 1: how often each class occurs in the public images.
    axes
        float64, shape (r, d), orthonormal rows: the principal axes of the covariance.
    variances
        float64, shape (r,), at least 0: variance along each axis.
    rest
        Variance in every direction orthogonal to the axes, at least 0.
    """

    means: Rows
    shares: Rows
    axes: Rows
    variances: Rows
    rest: float

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.means)

    @cached_property
    def _projected_means(self) -> Rows:
        return self.means @ self.axes.T

    def log_densities(self, uploads: ArrayLike, alpha_bar: float) -> Rows:
        """Return log p(y | class) of every upload in every class.

        Parameters
        ----------
        uploads
            Shape (n, ...): y in pixel units, d values each.
        alpha_bar
            Share of signal in the uploads, in (0, 1).

        Returns
        -------
        float64 array of shape (n, K)
        """
        a, b = signal_and_noise(alpha_bar)
        y = rows(uploads)
        variances, rest = a * a * self.variances + b * b, a * a * self.rest + b * b
        projected = y @ self.axes.T
        # |y - a m|^2 without n K d intermediate values
        squared = _squared_distances(y, a * self.means)
        inside = _squared_distances(projected, a * self._projected_means)
        weighted = _squared_distances(
            projected / np.sqrt(variances), a * self._projected_means / np.sqrt(variances)
        )
        dimension, rank = self.means.shape[1], len(self.variances)
        log_determinant = np.log(variances).sum() + (dimension - rank) * math.log(rest)
        outside = np.maximum(squared - inside, 0.0) / rest
        result: Rows = -0.5 * (weighted + outside + log_determinant + dimension * math.log(2 * math.pi))
        return result

    def log_density(self, uploads: ArrayLike, alpha_bar: float, labels: ArrayLike | None = None) -> Rows:
        """Return log p(y), shape (n,): given each upload's class, or over all classes by their shares."""
        every = self.log_densities(uploads, alpha_bar)
        if labels is not None:
            known = _known_labels(labels, len(every), self.classes)
            return every[np.arange(len(every)), known]
        with np.errstate(divide="ignore"):  # a class without public images has share 0
            result: Rows = np.asarray(logsumexp(every + np.log(self.shares), axis=1))
        return result

    def prior_guess(self, labels: ArrayLike) -> Rows:
        """Return the class means, shape (n, d): the best guess of u without any upload."""
        known = np.asarray(labels)
        return self.means[_known_labels(known, known.size, self.classes)]


def fit_gaussian(
    images: ArrayLike, labels: ArrayLike | None = None, rank: int | None = None
) -> GaussianImages:
    """Fit means and the covariance around them to public images.

    Parameters
    ----------
    images
        Clipped, centred images u, shape (n, ...), in the frame of the uploads.
    labels
        Classes 0 .. K-1, each with at least one image; ``None`` takes all images as one class.
    rank
        Number of principal axes r; the variance beyond them is spread evenly (probabilistic PCA, Tipping &
        Bishop 1999, equation 7). ``None`` keeps every axis.

    Raises
    ------
    DataError
        When there are not more images than classes, or a class below the largest label has none.
    ConfigError
        When ``rank`` is below 1.
    """
    u = rows(images)
    known = np.zeros(len(u), np.int64) if labels is None else labels_for(labels, len(u), "public images")
    if len(u) == 0 or known.min() < 0:
        raise DataError("a Gaussian model needs public images with labels from 0 up, but there are none")
    counts = np.bincount(known)
    if len(u) <= len(counts) or counts.min() == 0:
        raise DataError(
            f"a Gaussian model needs public images of every class and more images than classes, but the "
            f"classes have {counts.tolist()}"
        )
    if rank is not None and rank < 1:
        raise ConfigError(f"rank = {rank}: must be at least 1, or None for every axis")
    means = np.zeros((len(counts), u.shape[1]))
    np.add.at(means, known, u)
    means /= counts[:, None]
    axes, variances, rest = _principal_axes(u - means[known], len(u) - len(counts), rank)
    return GaussianImages(means, counts / counts.sum(), axes, variances, rest)


def wiener(model: GaussianImages, uploads: ArrayLike, labels: ArrayLike, alpha_bar: float) -> Rows:
    """Return the linear estimate of the clipped images behind the uploads, given their classes.

    Parameters
    ----------
    model
        From public images (:func:`fit_gaussian`).
    uploads
        y, shape (n, ...).
    labels
        Class of each upload, shape (n,); labels are disclosed.
    alpha_bar
        Share of signal in the uploads, in (0, 1).

    Returns
    -------
    float64 array of shape (n, d)
    """
    a, b = signal_and_noise(alpha_bar)
    mean = model.prior_guess(labels)
    off = rows(uploads) - a * mean
    projected = off @ model.axes.T
    gain = a * model.variances / (a * a * model.variances + b * b)
    rest = a * model.rest / (a * a * model.rest + b * b)
    result: Rows = mean + rest * off + (projected * (gain - rest)) @ model.axes
    return result


def _known_labels(labels: ArrayLike, count: int, classes: int) -> Labels:
    known = labels_for(labels, count, "uploads")
    if count and not 0 <= known.min() <= known.max() < classes:
        raise DataError(f"labels go from {known.min()} to {known.max()}, but the model has {classes} classes")
    return known


def _squared_distances(left: Rows, right: Rows) -> Rows:
    cross = left @ right.T
    result: Rows = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * cross
    return np.maximum(result, 0.0)


def _principal_axes(centred: Rows, freedom: int, rank: int | None) -> tuple[Rows, Rows, float]:
    """Return axes (r, d), variances (r,) and the variance of every other direction."""
    count, dimension = centred.shape
    total = float((centred**2).sum()) / freedom
    if dimension <= count:
        scatter, wide = centred.T @ centred / freedom, False
    else:  # the small Gram matrix has the same eigenvalues
        scatter, wide = centred @ centred.T / freedom, True
    kept = min(len(scatter), rank or len(scatter))
    values, vectors = eigh(scatter, subset_by_index=(len(scatter) - kept, len(scatter) - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    known = values > 1e-12 * max(total, 1e-300)
    values, vectors = values[known], vectors[:, known]
    axes = (vectors.T @ centred) / np.sqrt(values * freedom)[:, None] if wide else vectors.T
    spare = dimension - len(values)
    rest = max(0.0, total - float(values.sum())) / spare if spare and rank is not None else 0.0
    return np.ascontiguousarray(axes), np.ascontiguousarray(values), rest
