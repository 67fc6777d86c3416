"""What a client's own images say of each class before any training: its mean and its covariance.

A network learns the highest levels of the chain last, and of a class with a handful of images never. There
the images of a class are Gaussian as far as one can see, and Wiener's filter, equation (1) of
:mod:`~fedpdiff.diffusion.linear_gaussian`, needs moments alone. A client estimates them from its own clean
images, so it costs no privacy. Of a rare class these tell little: there the uploads of all clients help
(:mod:`~fedpdiff.diffusion.joining`).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from fedpdiff.diffusion.moments import class_means, class_scatter, principal_directions, signal_and_noise
from fedpdiff.types import LabelledImages

RANK = 256
"""Most directions in which covariances are told apart; beyond them all have the same variance."""
PRIOR = 2.0
"""Images that the covariance common to all classes counts as, beside those of a class."""
EACH = 0.25
"""Images per direction that it counts as beside a class whose covariance is inverted."""
ROUNDING = (2 / 255) ** 2 / 12
"""Variance that rounding to 8 bits gives a pixel, added before inverting: some pixels do not vary at all."""


class ClassGaussian(nn.Module):
    """Wiener's filter with a mean and a covariance for each class, of clean images in pixels.

    Buffers (float32; K classes, d = C H W values, R = min(256, d) directions): ``means`` (K, d); ``counts``
    (K,), images of each class; ``directions`` (R, d), orthonormal, the strongest of the covariance common to
    all classes, and ``common`` (R,), its variances; for the covariance of each class within them
    ``rotations`` (K, R, R), eigenvectors in columns, and ``variances`` (K, R); and ``rest`` (1,), the
    variance of one direction beyond them.

    Parameters
    ----------
    classes
        K.
    image_shape
        (C, H, W).
    """

    means: torch.Tensor
    counts: torch.Tensor
    directions: torch.Tensor
    common: torch.Tensor
    rotations: torch.Tensor
    variances: torch.Tensor
    rest: torch.Tensor

    def __init__(self, classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        values = math.prod(image_shape)
        rank = min(RANK, values)
        self.register_buffer("means", torch.zeros(classes, values))
        self.register_buffer("counts", torch.zeros(classes))
        self.register_buffer("directions", torch.zeros(rank, values))
        self.register_buffer("common", torch.zeros(rank))
        self.register_buffer("rotations", torch.zeros(classes, rank, rank))
        self.register_buffer("variances", torch.zeros(classes, rank))
        self.register_buffer("rest", torch.zeros(1))

    def forward(self, x_t: torch.Tensor, alpha_bar: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return E[x_0 | x_t] for ``x_t`` of shape (N, C, H, W); ``alpha_bar`` (float64) and labels (N,)."""
        signal, noise = signal_and_noise(alpha_bar, x_t)
        root = signal.sqrt()
        # A context of mixed precision is meant for networks: it would cost digits here and save no time.
        with torch.autocast(x_t.device.type, enabled=False):
            offset = x_t.flatten(1) - root * self.means[labels]
            along = offset @ self.directions.T
            beyond = offset - along @ self.directions
            estimate = root * self.rest / (signal * self.rest + noise) * beyond
            kept = torch.empty_like(along)
            for label in labels.unique().tolist():
                rows = labels == label
                rotation, variances = self.rotations[label], self.variances[label]
                gain = root[rows] * variances / (signal[rows] * variances + noise[rows])
                kept[rows] = (gain * (along[rows] @ rotation)) @ rotation.T
            return (self.means[labels] + estimate + kept @ self.directions).view_as(x_t)

    def fit(self, images: LabelledImages, generator: torch.Generator) -> None:
        """Estimate the moments.

        The covariance of a class with n images is n / (n + ``PRIOR``) its own, and for the rest the one that
        is common to all classes. A class without two images has :func:`likely_covariance` of the others',
        within the directions.

        Parameters
        ----------
        images
            The client's own, at least one.
        generator
            CPU generator of the first directions of the iteration.
        """
        pixels, labels = images.pixels(), images.labels
        counts = torch.bincount(labels, minlength=len(self.means)).double()
        values, rank = self.means.shape[1], len(self.common)
        means = class_means(pixels, labels, counts, values)
        free = max(1, len(labels) - int((counts > 0).sum()))  # degrees of freedom within classes
        spread, directions = principal_directions(pixels, labels, means, rank, free, generator)
        products, squares = class_scatter(pixels, labels, means, directions.T)
        common = spread.clamp_min(0)
        likely = torch.linalg.eigh(likely_covariance(products, counts, common.double()).float())
        for label, count in enumerate(counts.tolist()):
            if count > 1:
                mixed = (count / (count - 1) * products[label] + PRIOR * common.diag()) / (count + PRIOR)
                variances, rotation = torch.linalg.eigh(mixed.float())
            else:
                variances, rotation = likely
            self.variances[label], self.rotations[label] = variances.clamp_min(0), rotation
        self.means.copy_(means)
        self.counts.copy_(counts)
        self.directions.copy_(directions.T)
        self.common.copy_(common)
        self.rest.fill_(max(0.0, squares / free - float(common.sum())) / max(1, values - rank))

    def having(self, **moments: torch.Tensor) -> ClassGaussian:
        """Return the same with these buffers, by name, instead; what is not named is not copied."""
        other = copy.copy(self)
        other._buffers = {**self._buffers, **moments}
        return other

    def spread(self) -> torch.Tensor | None:
        """Return the variance common to all classes in each direction and beyond, (R + 1,), none of them 0.

        Few images show none in most directions. So they are drawn towards their mean by the share that loses
        least for Gaussian images (oracle approximating shrinkage; Chen, Wiesel, Eldar and Hero 2010, equation
        23). None where no class has two images.
        """
        values, rank = self.means.shape[1], len(self.common)
        free = float(self.counts.sum() - (self.counts > 0).sum())
        trace = float(self.common.sum() + self.rest * (values - rank))
        if free <= 0 or trace <= 0:
            return None
        squares = float(self.common.square().sum() + self.rest**2 * (values - rank))
        over = (free + 1 - 2 / values) * (squares - trace**2 / values)
        drawn = min(1.0, ((1 - 2 / values) * squares + trace**2) / over) if over > 0 else 1.0
        return (1 - drawn) * torch.cat([self.common, self.rest]) + drawn * trace / values


def likely_covariance(products: torch.Tensor, counts: torch.Tensor, common: torch.Tensor) -> torch.Tensor:
    """Return the covariance that samples of a class should have of which no image shows any, float64 (R, R).

    They should look like images of that class, whichever of the known shapes S_k it has. The mean over k of
    KL(N(0, S) || N(0, S_k)), weighted by images less one, is least where S^-1 is the mean of S_k^-1. The mean
    of the S_k is least the other way round: it covers all of them, so its samples vary too much for each. How
    much smaller the harmonic mean is follows from how much the classes differ.

    Also from how few images there are: inverted sample covariances are too large. To each S_k the common
    covariance is added, counted as ``EACH`` images per direction, which limits that but does not remove it.

    Parameters
    ----------
    products
        float64 (K, R, R), as :func:`~fedpdiff.diffusion.moments.class_scatter` returns them.
    counts
        float64 (K,), images of each class.
    common
        float64 (R,), the variances common to all classes, along whose axes the products are.
    """
    added = EACH * len(common)
    rounding = ROUNDING * torch.eye(len(common), dtype=torch.float64)
    free, precision = 0.0, torch.zeros_like(products[0])
    for scatter, count in zip(products, counts.tolist(), strict=True):
        if count > 1:
            known = (count / (count - 1) * scatter + added * common.diag()) / (count + added)
            precision += (count - 1) * torch.linalg.inv(known + rounding)
            free += count - 1
    return free * torch.linalg.inv(precision) - rounding if free else common.diag()
