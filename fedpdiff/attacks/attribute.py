"""What does one upload say about its meaning? Reading the class, or another attribute, from one upload.

The attacker trains on public images with noise of the uploads' level and knows the attribute of those, not
of the uploads. Two readers: the Gaussian one (means per value and a common covariance; the exact Bayes rule
where images are Gaussian) and a small network, which starts from the Gaussian one. The release keeps every
reader below Phi(Phi^-1(chance) + mu/2), see :func:`fedpdiff.privacy.ceilings.guessing`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from fedpdiff.attacks.linear import GaussianImages
from fedpdiff.attacks.uploads import Labels, Proportion, labels_for, rows, signal_and_noise
from fedpdiff.errors import DataError
from fedpdiff.privacy import ceilings

Reader = Callable[[NDArray[np.float64]], Labels]
"""Maps uploads y, shape (n, ...), to guessed values, int64 of shape (n,)."""

_BATCH = 128
_LEARNING_RATE = 2e-3
_CHECKS = 10


@dataclass(frozen=True)
class AttributeReading:
    """How well a reader read an attribute from single uploads.

    Attributes
    ----------
    right
        How many uploads were read rightly.
    chance
        Share of the most common value: what an attacker who knows the shares reaches without any upload.
    cap
        What no reader can exceed in expectation.
    """

    right: Proportion
    chance: float
    cap: float

    @property
    def accuracy(self) -> float:
        """Share of uploads read rightly."""
        return self.right.rate

    def above_chance(self, confidence: float = 0.95) -> bool:
        """Return whether the accuracy is above chance beyond what luck explains."""
        return self.right.interval(confidence).low > self.chance


def read_attribute(reader: Reader, uploads: ArrayLike, values: ArrayLike, mu: float) -> AttributeReading:
    """Read the attribute of every upload and compare with the truth.

    Parameters
    ----------
    reader
        From :func:`gaussian_reader` or :func:`train_network_reader`.
    uploads
        y, shape (n, ...).
    values
        The truth, int from 0 up, shape (n,).
    mu
        Of the release.

    Raises
    ------
    DataError
        When there is nothing to read, or a value is negative.
    """
    y = np.asarray(uploads, np.float64)
    truth = labels_for(values, len(y), "uploads")
    if len(truth) == 0 or truth.min() < 0:
        raise DataError("reading an attribute needs uploads with values from 0 up")
    chance = float(np.bincount(truth).max() / len(truth))
    right = Proportion(int((reader(y) == truth).sum()), len(truth))
    return AttributeReading(right, chance, ceilings.guessing(mu, chance))


def gaussian_reader(model: GaussianImages, alpha_bar: float) -> Reader:
    """Return the Bayes rule of a Gaussian model of public images: the most likely value given the upload.

    Parameters
    ----------
    model
        :func:`fedpdiff.attacks.linear.fit_gaussian` with the attribute as label.
    alpha_bar
        Share of signal in the uploads, in (0, 1).
    """
    signal_and_noise(alpha_bar)

    def read(uploads: NDArray[np.float64]) -> Labels:
        with np.errstate(divide="ignore"):
            every = model.log_densities(uploads, alpha_bar) + np.log(model.shares)
        return every.argmax(1).astype(np.int64)

    return read


class _ReaderNetwork(torch.nn.Module):
    """A linear read-out, which is what strong noise leaves room for, and a convolutional correction to it."""

    def __init__(self, shape: tuple[int, int, int], values: int) -> None:
        super().__init__()
        channels, height, width = shape
        pooled = (min(4, height), min(4, width))
        self.linear = torch.nn.Linear(channels * height * width, values)
        self.convolutional = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 16, 5, padding=2),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, padding=1, stride=2),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(pooled),
            torch.nn.Flatten(),
            torch.nn.Linear(32 * pooled[0] * pooled[1], values),
        )
        for weights in (*self.linear.parameters(), *self.convolutional[-1].parameters()):
            torch.nn.init.zeros_(weights)

    def forward(self, uploads: torch.Tensor) -> torch.Tensor:
        """Return one logit per value."""
        result: torch.Tensor = self.linear(uploads.flatten(1)) + self.convolutional(uploads)
        return result


def train_network_reader(
    images: ArrayLike,
    values: ArrayLike,
    alpha_bar: float,
    generator: torch.Generator,
    steps: int = 600,
) -> Reader:
    """Train a small network on public images, with fresh noise of the uploads' level in every batch.

    It starts as the Gaussian reader of four fifths of the images and learns a correction to that; the weights
    that read the other fifth best are kept, so that it is hardly ever worse.

    Parameters
    ----------
    images
        Clipped, centred public images u, shape (m, C, H, W), m at least 10.
    values
        Their attribute, int in 0 .. V-1, shape (m,).
    alpha_bar
        Share of signal in the uploads, in (0, 1).
    generator
        CPU generator of the split, the weights, batches and noise.
    steps
        Gradient steps of 128 images.

    Raises
    ------
    DataError
        When there are fewer than 10 images or their shape is wrong.
    """
    u = torch.from_numpy(rows(images)).float().view(np.asarray(images).shape)
    known = torch.from_numpy(labels_for(values, len(u), "public images"))
    if u.ndim != 4 or len(u) < 10 or int(known.min()) < 0:
        raise DataError(
            f"a network reader needs 10 or more images of shape (m, C, H, W) with values from 0 up, but got "
            f"{tuple(u.shape)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        network = _ReaderNetwork((u.shape[1], u.shape[2], u.shape[3]), int(known.max()) + 1)
    order = torch.randperm(len(u), generator=generator)
    held, used = order[: len(u) // 5], order[len(u) // 5 :]
    _start_linear(network.linear, u[used].flatten(1), known[used], alpha_bar)
    _optimise(network, (u, known), used, held, alpha_bar, generator, steps)

    @torch.no_grad()
    def read(uploads: NDArray[np.float64]) -> Labels:
        y = torch.from_numpy(np.asarray(uploads, np.float32))
        guesses = [network(part).argmax(1) for part in y.split(1024)]
        return torch.cat(guesses).numpy().astype(np.int64)

    return read


def _start_linear(
    linear: torch.nn.Linear, images: torch.Tensor, values: torch.Tensor, alpha_bar: float
) -> None:
    """Set the weights to those of linear discriminant analysis of noisy images (Fisher 1936)."""
    a, b = signal_and_noise(alpha_bar)
    u = images.double()
    counts = torch.bincount(values, minlength=linear.out_features).double()
    means = torch.zeros(len(counts), u.shape[1], dtype=torch.float64).index_add_(0, values, u)
    means /= counts.clamp_min(1)[:, None]
    off = u - means[values]
    noisy = a * a * off.T @ off / max(1, len(u) - len(counts))
    noisy.diagonal().add_(b * b)
    weights = a * torch.cholesky_solve(means.T, torch.linalg.cholesky(noisy)).T
    shares = (counts + 0.5) / (counts + 0.5).sum()  # a value that only held-out images have stays possible
    with torch.no_grad():
        linear.weight.copy_(weights)
        linear.bias.copy_(shares.log() - 0.5 * a * (weights * means).sum(1))


def _optimise(
    network: _ReaderNetwork,
    public: tuple[torch.Tensor, torch.Tensor],
    used: torch.Tensor,
    held: torch.Tensor,
    alpha_bar: float,
    generator: torch.Generator,
    steps: int,
) -> None:
    """Train the correction in place; end with the weights of the least loss on the held-out images."""
    a, b = signal_and_noise(alpha_bar)
    images, values = public

    def noisy(index: torch.Tensor) -> torch.Tensor:
        clean = images[index]
        return a * clean + b * torch.randn(clean.shape, generator=generator)

    check, truth = noisy(held), values[held]
    optimizer = torch.optim.AdamW(network.convolutional.parameters(), lr=_LEARNING_RATE, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, kept = float("inf"), {k: v.clone() for k, v in network.state_dict().items()}
    for step in range(steps + 1):
        if step % max(1, steps // _CHECKS) == 0:
            with torch.no_grad():
                value = float(functional.cross_entropy(network(check), truth))
            if value < best:
                best, kept = value, {k: v.clone() for k, v in network.state_dict().items()}
        if step == steps:
            break
        index = used[torch.randint(len(used), (_BATCH,), generator=generator)]
        loss = functional.cross_entropy(network(noisy(index)), values[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rate.step()
    network.load_state_dict(kept)
