"""Where training draws its start images from: clean images, clean and clipped ones, or pooled uploads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from fedpdiff.errors import DataError
from fedpdiff.types import LabelledImages, to_pixels

MOST_IMAGES = 2**24  # of torch.multinomial


class Batches(Protocol):
    """A source of start images and their conditioning labels."""

    def draw(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 (size, C, H, W) and int64 (size,)."""


class Images(Protocol):
    """Images that can be drawn: a tensor, or whatever reads and decodes those that are asked for."""

    def __getitem__(self, index: torch.Tensor, /) -> torch.Tensor:
        """Return float32 (n, C, H, W) for int64 (n,)."""


def class_weights(labels: torch.Tensor, balance: float) -> torch.Tensor:
    """Return each image's probability of being drawn, float64 (N,), proportional to n_class^-balance.

    1 draws every class that is present equally often: with a few images of a class beside hundreds of others,
    this is worth more than anything else a client can do alone. Slightly less keeps the few images from being
    learnt by heart, so that the network follows the hint it is handed. 0 draws every image equally often.

    Raises
    ------
    DataError
        When there is no image, or more than 2^24.
    """
    if len(labels) == 0:
        raise DataError("there are no images to train on")
    if len(labels) > MOST_IMAGES:
        raise DataError(
            f"there are {len(labels)} images to train on, but torch draws from at most {MOST_IMAGES}; "
            "take fewer clients or fewer images"
        )
    weights = torch.bincount(labels).double()[labels] ** -balance
    return weights / weights.sum()


class CleanImages:
    """Clean images for the personal half, kept as uint8 and converted batch by batch.

    Parameters
    ----------
    images
        The client's images.
    balance
        0 (images equally often) to 1 (classes equally often), see :func:`class_weights`.
    """

    def __init__(self, images: LabelledImages, balance: float) -> None:
        self.images = images
        self._weights = class_weights(images.labels, balance)

    def draw(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pixels in [-1, 1] and labels of ``size`` images, drawn with replacement."""
        index = torch.multinomial(self._weights, size, replacement=True, generator=generator)
        return to_pixels(self.images.images[index]), self.images.labels[index]


class ClipMixedImages:
    """Half clipped, half unclipped images with a flag, PFDM's clip-mixing (arXiv 2504.00952; rule is ours).

    The paper mixes "clipped and unclipped samples and an auxiliary conditional signal"; the exact rule is not
    published. Here each image of a batch is clipped with probability 1/2, and the flag is part of the
    conditioning label: class k clipped is k, unclipped is k + K.

    Parameters
    ----------
    clean
        The images.
    num_classes
        K.
    clip_pixels
        Maps pixels (N, C, H, W) to clipped pixels in the same frame: c + CLIP(x - c, C).
    """

    def __init__(
        self, clean: CleanImages, num_classes: int, clip_pixels: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self._clean = clean
        self._num_classes = num_classes
        self._clip_pixels = clip_pixels

    def draw(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pixels, and labels that carry the flag."""
        pixels, labels = self._clean.draw(size, generator)
        unclipped = torch.rand(size, generator=generator) < 0.5
        pixels = torch.where(unclipped.view(-1, 1, 1, 1), pixels, self._clip_pixels(pixels))
        return pixels, labels + self._num_classes * unclipped


class LabelDropout:
    """Hides the label of a share of the images, so that the network also learns what all classes share.

    With a handful of images of a class, a network that always sees the label recalls those images whatever it
    is handed; one that sometimes does not follows the hint. Sampling asks without a label for guidance, which
    Ho and Salimans (2022) introduced it for, and of classes that the network never saw.

    Parameters
    ----------
    batches
        The images.
    share
        Probability of hiding a label, 0 .. 1.
    hidden
        The label that stands for none.
    """

    def __init__(self, batches: Batches, share: float, hidden: int) -> None:
        self._batches = batches
        self._share = share
        self._hidden = hidden

    def draw(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start images, and labels of which some are hidden."""
        start, labels = self._batches.draw(size, generator)
        return start, labels.masked_fill(torch.rand(size, generator=generator) < self._share, self._hidden)


class Uploads:
    """Pooled uploads for the global half: decoded noisy images, each class equally often.

    Parameters
    ----------
    values
        N uploads at level t0, around the centre; may lie on the disk.
    labels
        int64, shape (N,).
    """

    def __init__(self, values: Images, labels: torch.Tensor) -> None:
        self._values = values
        self._labels = labels
        self._weights = class_weights(labels, 1.0)

    def draw(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``size`` uploads and their labels, drawn with replacement."""
        index = torch.multinomial(self._weights, size, replacement=True, generator=generator)
        return self._values[index].float(), self._labels[index]
