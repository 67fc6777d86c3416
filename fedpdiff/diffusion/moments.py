"""Moments of many images, a block at a time, and the signal and noise that their filters weigh."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.fft
import torch

from fedpdiff.diffusion.batches import Images

_SWEEPS = 4  # of the subspace iteration; directions that stand out of the noise converge in fewer
_BLOCK = 2**22  # values that are in memory at a time, at least an image


def blocks(count: int, values: int) -> tuple[torch.Tensor, ...]:
    """Return the rows of each block of images of so many values."""
    return torch.arange(count).split(max(1, _BLOCK // values))


def class_means(images: Images, labels: torch.Tensor, counts: torch.Tensor, values: int) -> torch.Tensor:
    """Return the mean image of each class, float32 (K, d); a class without images has the mean of all.

    ``counts``: float64 (K,), images of each class; ``values``: d.
    """
    sums = torch.zeros(len(counts), values, dtype=torch.float64)
    for rows in blocks(len(labels), values):
        sums.index_add_(0, labels[rows], images[rows].flatten(1).double())
    means = sums / counts.clamp_min(1).view(-1, 1)
    means[counts == 0] = sums.sum(0) / len(labels)
    return means.float()


def principal_directions(
    images: Images,
    labels: torch.Tensor,
    means: torch.Tensor,
    rank: int,
    free: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest eigenvalues (rank,) of the covariance within classes, and the vectors (d, rank).

    By subspace iteration over the images: the matrix itself would have d^2 entries. ``free``: degrees of
    freedom, images less classes that have any.
    """
    values = means.shape[1]
    basis = torch.linalg.qr(torch.randn(values, rank, generator=generator)).Q
    for sweep in range(_SWEEPS + 1):
        image = torch.zeros_like(basis)
        for rows in blocks(len(labels), values):
            residual = images[rows].flatten(1).float() - means[labels[rows]]
            image += residual.T @ (residual @ basis)
        if sweep < _SWEEPS:
            basis = torch.linalg.qr(image).Q
    eigenvalues, vectors = torch.linalg.eigh(basis.T @ image / free)
    return eigenvalues.flip(0), basis @ vectors.flip(1)


def class_scatter(
    images: Images, labels: torch.Tensor, means: torch.Tensor, directions: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Return what the images of each class differ by from its mean, summed over them.

    Products along the directions, float64 (K, R, R), and all squares. ``directions``: (R, d), orthonormal.
    """
    products = torch.zeros(len(means), len(directions), len(directions), dtype=torch.float64)
    squares = 0.0
    for rows in blocks(len(labels), means.shape[1]):
        offset = images[rows].flatten(1).float() - means[labels[rows]]
        squares += float(offset.double().square().sum())
        along = (offset @ directions.T).double()
        for label in labels[rows].unique().tolist():
            some = along[labels[rows] == label]
            products[label] += some.T @ some
    return products, squares


def coarse_directions(image_shape: tuple[int, int, int], count: int) -> torch.Tensor:
    """Return the directions of lowest frequency, orthonormal, float32 (``count``, C H W).

    They are those of the discrete cosine transform over channels, rows and columns, which everybody knows;
    images differ along them more than along others.
    """
    waves = [scipy.fft.dct(np.eye(size), norm="ortho", axis=0) for size in image_shape]
    places = itertools.product(*(range(size) for size in image_shape))
    lowest = sorted(places, key=lambda place: sum(number**2 for number in place))[:count]
    found = np.stack(
        [np.einsum("c,h,w->chw", *(w[i] for w, i in zip(waves, one, strict=True))) for one in lowest]
    )
    return torch.from_numpy(found.reshape(count, -1)).float()


def signal_and_noise(alpha_bar: torch.Tensor, x_t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return abar and 1 - abar as (N, 1), like ``x_t``; ``alpha_bar``: float64 (N,)."""
    signal = alpha_bar.to(x_t.device).view(-1, 1)
    noise = (1 - signal).to(x_t.dtype)  # subtracted in double precision: abar may be close to 1
    return signal.to(x_t.dtype), noise
