"""Labelled images, the one value that data, training, privacy and metrics exchange."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fedpdiff.errors import DataError


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 images to float32 pixels in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Map float pixels in [-1, 1] to uint8; values outside are clamped."""
    return pixels.detach().float().clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8).cpu()


@dataclass(frozen=True)
class LabelledImages:
    """N images with one class each.

    Parameters
    ----------
    images
        uint8, shape (N, C, H, W), C = 1 (grey) or 3 (RGB).
    labels
        int64, shape (N,), values 0 .. K-1 in the order of the run's class names.

    Raises
    ------
    DataError
        When dtype or shape is wrong or the two lengths differ.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        """Check dtypes and shapes once, so that nobody downstream has to."""
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(
                f"images must be uint8 of shape (N, C, H, W), but are {self.images.dtype} of shape "
                f"{tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels must be int64 of shape ({len(self.images)},), but are {self.labels.dtype} of shape "
                f"{tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def pixels(self) -> torch.Tensor:
        """Return the images as float32 in [-1, 1], shape (N, C, H, W)."""
        return to_pixels(self.images)

    def select(self, index: torch.Tensor) -> LabelledImages:
        """Return the images at ``index`` (integer positions or a boolean mask)."""
        return LabelledImages(self.images[index], self.labels[index])

    def of_classes(self, classes: Iterable[int]) -> LabelledImages:
        """Return the images of these classes, in their order here."""
        wanted = torch.tensor(sorted(set(classes)), dtype=torch.int64)
        return self.select(torch.isin(self.labels, wanted))

    def counts(self, num_classes: int) -> list[int]:
        """Return the number of images of each class 0 .. num_classes - 1."""
        return [int(n) for n in torch.bincount(self.labels, minlength=num_classes)]


def concatenate(parts: Iterable[LabelledImages]) -> LabelledImages:
    """Join several sets of images of the same shape."""
    parts = list(parts)
    if not parts:
        raise DataError("there are no images to join")
    return LabelledImages(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
