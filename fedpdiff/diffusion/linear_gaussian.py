"""A denoiser without any training: each class is taken as Gaussian, its moments estimated from uploads.

For u ~ N(m_k, S) and x_t = sqrt(abar) u + sqrt(1 - abar) e the best denoiser is linear, Wiener's filter,

    E[u | x_t] = m_k + sqrt(abar) S (abar S + (1 - abar) I)^-1 (x_t - sqrt(abar) m_k).            (1)

Uploads y = sqrt(abar_t0) u + sqrt(1 - abar_t0) z are noisy, but how noisy is known exactly, so their moments
give those of the clean images: the class means of y are unbiased, and the covariance of y exceeds that of
sqrt(abar_t0) u by (1 - abar_t0) I. What a few thousand images reveal at a small epsilon is hardly more than
this, and estimating it directly wastes none of it on training. It is post-processing of uploads: it costs no
privacy.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from fedpdiff.diffusion.batches import Images
from fedpdiff.diffusion.moments import (
    class_means,
    class_scatter,
    coarse_directions,
    principal_directions,
    signal_and_noise,
)

RANK = 64
"""Most principal directions that are kept, and most coarse ones that each class's covariance is told in."""


class LinearGaussian(nn.Module):
    """Equation (1), with one mean per class and one covariance of low rank for all of them.

    Buffers (float32; K classes, d = C H W values, R = min(64, d) directions): ``means`` (K, d),
    ``directions`` (R, d), orthonormal, ``variances`` (R,), of clean clipped images along them, and ``counts``
    (K,), the uploads of each class. Not for the filter, but for those who know more of the images:
    ``spreads`` (K, R, R), an unbiased estimate of each class's covariance along ``coarse`` (R, d), the
    directions of lowest frequency; it may have negative eigenvalues.

    Parameters
    ----------
    classes
        K.
    image_shape
        (C, H, W).
    """

    means: torch.Tensor
    directions: torch.Tensor
    variances: torch.Tensor
    counts: torch.Tensor
    spreads: torch.Tensor
    coarse: torch.Tensor

    def __init__(self, classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        values = math.prod(image_shape)
        rank = min(RANK, values)
        self.register_buffer("means", torch.zeros(classes, values))
        self.register_buffer("directions", torch.zeros(rank, values))
        self.register_buffer("variances", torch.zeros(rank))
        self.register_buffer("counts", torch.zeros(classes))
        self.register_buffer("spreads", torch.zeros(classes, rank, rank))
        self.register_buffer("coarse", coarse_directions(image_shape, rank), persistent=False)

    def forward(self, x_t: torch.Tensor, alpha_bar: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return E[u | x_t] for ``x_t`` of shape (N, C, H, W); ``alpha_bar`` (float64) and labels (N,)."""
        signal, noise = signal_and_noise(alpha_bar, x_t)
        means = self.means[labels]
        # A context of mixed precision is meant for networks: it would cost digits here and save no time.
        with torch.autocast(x_t.device.type, enabled=False):
            along = (x_t.flatten(1) - signal.sqrt() * means) @ self.directions.T
            gain = signal.sqrt() * self.variances / (signal * self.variances + noise)
            return (means + (gain * along) @ self.directions).view_as(x_t)

    def fit(self, uploads: Images, labels: torch.Tensor, start: float, generator: torch.Generator) -> None:
        """Estimate the moments from uploads.

        Parameters
        ----------
        uploads, labels
            N uploads y and their classes.
        start
            abar_t0: the uploads' share of signal; the rest, 1 - abar_t0, is the variance of their noise.
        generator
            CPU generator of the first directions of the iteration.
        """
        counts = torch.bincount(labels, minlength=len(self.means)).double()
        values = self.means.shape[1]
        # Not drawn towards each other: it would blur the classes.
        means = class_means(uploads, labels, counts, values)
        free = len(labels) - int((counts > 0).sum())  # degrees of freedom within classes
        if free > 0:
            spread, directions = principal_directions(
                uploads, labels, means, len(self.variances), free, generator
            )
            variances = (1 - start) * _signal(spread / (1 - start), values / free)
            self.directions.copy_(directions.T)
            self.variances.copy_(variances / start)
        self.spreads.copy_(self._spreads(uploads, labels, means, start))
        self.means.copy_(means / math.sqrt(start))
        self.counts.copy_(counts)

    def _spreads(
        self, uploads: Images, labels: torch.Tensor, means: torch.Tensor, start: float
    ) -> torch.Tensor:
        """Return each class's covariance along the coarse directions, zero for fewer than two uploads."""
        products, _ = class_scatter(uploads, labels, means, self.coarse)
        counts = torch.bincount(labels, minlength=len(means)).view(-1, 1, 1)
        noise = (1 - start) * torch.eye(len(self.coarse))
        found = (products / (counts - 1).clamp_min(1) - noise) / start
        return torch.where(counts > 1, found, 0.0).float()


def _signal(spread: torch.Tensor, aspect: float) -> torch.Tensor:
    """Return the variance of the signal along sample principal directions, in units of the noise's.

    A sample eigenvalue l of pure noise reaches (1 + sqrt(g))^2 with g = ``aspect`` = values per sample
    (Marchenko and Pastur); one above it belongs to a direction whose total variance v solves
    l = v (1 + g / (v - 1)), and its vector has with the true one the squared cosine
    c^2 = (1 - g / (v - 1)^2) / (1 + g / (v - 1)) (Baik and Silverstein 2006; Paul 2007). The estimate of
    least Frobenius error is c^2 (v - 1) (Donoho, Gavish and Johnstone 2018).
    """
    seen = spread > (1 + math.sqrt(aspect)) ** 2
    b = torch.where(seen, spread, 4.0 + 4 * aspect) + 1 - aspect
    total = (b + (b * b - 4 * (b - 1 + aspect)).clamp_min(0).sqrt()) / 2
    excess = total - 1
    cosine = (1 - aspect / excess**2) / (1 + aspect / excess)
    return torch.where(seen, cosine * excess, 0.0).clamp_min(0)
