"""Two-stage sampling of Gaussian classes in closed form: what each half learns, and where the samples end.

Given its class, an image is u ~ N(m, S), and a denoiser that is affine in the image with weights of its own
for every class (the ``sum_k 1[y = k] (W_k x + V_k)`` of PFDM's Theorem 5.2) is at its best when it is the
posterior mean of the Gaussian with mean and covariance of its training images. So training is :func:`fit`,
and every sampler's output is a Gaussian again.

The upload is u + s z with s^2 = (1 - abar) / abar at the hand-off. The reverse process takes it back to the
image with the personal half's idea of the class: by one draw of the posterior (DDPM: noise is added at every
step) or by the monotone map between the noisy and the clean Gaussian (DDIM: none is).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Sampler = Literal["ddpm", "ddim"]


@dataclass(frozen=True)
class Gaussian:
    """N(mean, cov) in d values."""

    mean: Array
    cov: Array

    def noisy(self, s: float) -> Gaussian:
        """Return the distribution of u + s z."""
        return Gaussian(self.mean, self.cov + s * s * np.eye(len(self.mean)))

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Return ``count`` draws, shape (count, d)."""
        return self.mean + rng.normal(size=(count, len(self.mean))) @ np.linalg.cholesky(self.cov).T


def standard(size: int) -> Gaussian:
    """Return N(0, I): Theorem 5.2 up to the unit, with s the noise per unit of signal."""
    return Gaussian(np.zeros(size), np.eye(size))


def fit(images: Array) -> Gaussian:
    """Return what the best class-wise affine denoiser of these images knows: their mean and covariance."""
    return Gaussian(images.mean(axis=0), np.atleast_2d(np.cov(images.T, bias=True)))


def root(matrix: Array) -> Array:
    """Return the positive square root of a covariance."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def w2_squared(p: Gaussian, q: Gaussian) -> float:
    """Return the squared 2-Wasserstein distance of two Gaussians (Dowson & Landau 1982)."""
    inner = root(root(p.cov) @ q.cov @ root(p.cov))
    spread = np.trace(p.cov) + np.trace(q.cov) - 2 * np.trace(inner)
    return float(np.sum((p.mean - q.mean) ** 2) + spread)


def two_stage(uploads: Gaussian, personal: Gaussian, s: float, sampler: Sampler) -> Gaussian:
    """Return the distribution of samples that begin as the global half's uploads.

    Parameters
    ----------
    uploads
        What the global half draws at the hand-off: the fit of noisy images u + s z.
    personal
        What the personal half takes the class to be: the fit of its own clean images.
    s
        Noise of the uploads per unit of signal.
    """
    noisy = personal.noisy(s)
    if sampler == "ddpm":  # u | x ~ N(m + K (x - m), S - K S)
        follow = personal.cov @ np.linalg.inv(noisy.cov)
        rest = personal.cov - follow @ personal.cov
    else:  # the monotone map; both covariances have the same eigenvectors
        follow = root(personal.cov) @ np.linalg.inv(root(noisy.cov))
        rest = np.zeros_like(personal.cov)
    mean = personal.mean + follow @ (uploads.mean - personal.mean)
    return Gaussian(mean, follow @ uploads.cov @ follow.T + rest)


def expected_w2(size: int, s: float, few: int, pooled: int, sampler: Sampler) -> tuple[float, float]:
    """Return E[W2^2] of local-only and of two-stage sampling for N(0, I), to first order in 1/n and 1/N.

    ``few`` clean images at the client, ``pooled`` uploads of the class. With a = 1/(1 + s^2) the mean of
    the samples errs by (1 - f) e_local + f e_global, the covariance by (1 - f^2) E_local + f^2 E_global,
    where the sampler follows the hint by f = a (DDPM) or sqrt(a) (DDIM). A mean of n images errs by d/n in
    squares, the covariance I by (d^2 + d)/n, which costs a quarter of that; uploads have the covariance I/a.
    """
    a = 1 / (1 + s * s)
    follow = a if sampler == "ddpm" else a**0.5
    mean, spread = float(size), size * (size + 1) / 4
    local = (mean + spread) / few
    kept = (1 - follow) ** 2 * mean + (1 - follow**2) ** 2 * spread
    handed = follow**2 / a * mean + follow**4 / a**2 * spread
    return local, kept / few + handed / pooled


@dataclass(frozen=True)
class Mixture:
    """Classes of equal weight in d values, for denoisers that are not told the class."""

    classes: tuple[Gaussian, ...]

    def posterior_mean(self, x: Array, s: float) -> Array:
        """Return E[u | u + s z = x], shape (n, d): the classes' own estimates, weighted by their odds."""
        logs, means = [], []
        for one in self.classes:
            noisy = one.noisy(s)
            difference = x - noisy.mean
            solved = np.linalg.solve(noisy.cov, difference.T).T
            logs.append(-0.5 * (np.sum(difference * solved, axis=1) + np.linalg.slogdet(noisy.cov)[1]))
            means.append(one.mean + solved @ one.cov)
        weights = np.exp(np.array(logs) - np.max(logs, axis=0))
        weights /= weights.sum(axis=0)
        return np.einsum("kn,knd->nd", weights, np.array(means))
