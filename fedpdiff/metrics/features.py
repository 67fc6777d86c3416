"""The default feature space: the last hidden layer of a small classifier of the run's own classes.

ImageNet features say little about 8x8 digits, so images are compared where they differ: in a network that was
trained to tell the run's classes apart. Its features are

* taken before the last non-linearity, where they have no atoms at zero and are closest to the Gaussian that
  a Frechet distance assumes, and
* scaled to zero mean and unit variance per coordinate over the network's training images, so that distances
  in two networks have about the same size.

Distances are comparable only within one network, which results name by a hash of its weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import nn

from fedpdiff.errors import ConfigError, MessageError
from fedpdiff.types import LabelledImages

FEATURE_DIM = 64
MIN_SIZE = 4
_BATCH = 512
_ARCHITECTURE = "architecture"  # the record that holds (channels, size, classes)


class FeatureSpace(Protocol):
    """Anything that maps images to vectors, under a name that identifies the space."""

    @property
    def name(self) -> str:
        """Return the space's name, for example ``classifier:1a2b3c4d``."""
        ...

    @property
    def dimension(self) -> int:
        """Return the number of features per image."""
        ...

    def features(self, images: LabelledImages) -> np.ndarray:
        """Return float64 features of shape (N, dimension)."""
        ...


class FeatureNetwork(nn.Module):
    """A small convolutional classifier whose last hidden layer is the feature space.

    Parameters
    ----------
    channels
        1 (grey) or 3 (RGB).
    size
        Height and width of the images in pixels, at least 4.
    num_classes
        Number of classes K, at least 1.
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor

    def __init__(self, channels: int, size: int, num_classes: int) -> None:
        super().__init__()
        if channels not in (1, 3) or size < MIN_SIZE or num_classes < 1:
            raise ConfigError(
                f"the classifier's features need 1 or 3 channels, at least {MIN_SIZE} pixels a side and "
                f"at least 1 class, not {channels} channels, image-size = {size} and {num_classes} classes"
            )
        self.architecture = (channels, size, num_classes)
        self.body = nn.Sequential(*_body(channels, size))
        self.head = nn.Linear(FEATURE_DIM, num_classes)
        # Set after training; buffers, so that they travel and are hashed with the weights.
        self.register_buffer("feature_mean", torch.zeros(FEATURE_DIM))
        self.register_buffer("feature_std", torch.ones(FEATURE_DIM))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map pixels in [-1, 1], shape (N, C, H, W), to raw features (N, 64) and logits (N, K)."""
        hidden = self.body(pixels)
        return hidden, self.head(torch.relu(hidden))

    @property
    def dimension(self) -> int:
        """Return the number of features per image."""
        return FEATURE_DIM

    @property
    def hash(self) -> str:
        """Return the SHA-256 of the architecture and every weight, in hexadecimal."""
        digest = hashlib.sha256()
        for name, array in sorted(self.to_arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def name(self) -> str:
        """Return ``classifier:`` and the first eight digits of the hash."""
        return f"classifier:{self.hash[:8]}"

    def features(self, images: LabelledImages) -> np.ndarray:
        """Return scaled features, float64 of shape (N, 64)."""
        raw = self._run(images)[0]
        scaled = (raw - self.feature_mean.cpu()) / self.feature_std.cpu()
        return scaled.double().numpy()

    def predict(self, images: LabelledImages) -> torch.Tensor:
        """Return the most likely class of each image, int64 of shape (N,)."""
        return self._run(images)[1].argmax(dim=1)

    @torch.no_grad()
    def _run(self, images: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
        channels, size, num_classes = self.architecture
        if tuple(images.images.shape[1:]) != (channels, size, size):
            raise ConfigError(
                f"the feature network takes images of shape {(channels, size, size)}, but these are "
                f"{tuple(images.images.shape[1:])}; measure with the network trained for this run"
            )
        device = self.head.weight.device
        parts = [self(part.to(device).float().div(127.5).sub(1.0)) for part in images.images.split(_BATCH)]
        if not parts:
            return torch.zeros(0, FEATURE_DIM), torch.zeros(0, num_classes)
        return torch.cat([p[0] for p in parts]).cpu(), torch.cat([p[1] for p in parts]).cpu()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return architecture and weights by name, as they go over the wire and to disk."""
        arrays = {name: value.detach().cpu().numpy() for name, value in self.state_dict().items()}
        return {_ARCHITECTURE: np.array(self.architecture, dtype=np.int64), **arrays}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> FeatureNetwork:
        """Build a network from :meth:`to_arrays`.

        Raises
        ------
        MessageError
            When an array is missing, unknown, of another shape or type, or not finite.
        """
        shape = np.asarray(arrays.get(_ARCHITECTURE, np.zeros(0)))
        if shape.shape != (3,) or shape.dtype != np.int64:
            raise MessageError(f"a feature network needs three int64 numbers as '{_ARCHITECTURE}'")
        with torch.device("meta"):  # shapes alone: the numbers may claim any size
            state = cls(*(int(n) for n in shape)).state_dict()
        if set(arrays) != {*state, _ARCHITECTURE}:
            wrong = sorted(set(arrays) ^ {*state, _ARCHITECTURE})
            raise MessageError(f"the feature network's arrays are not those of its architecture: {wrong}")
        for name, wanted in state.items():
            array = np.asarray(arrays[name])
            fits = array.shape == tuple(wanted.shape) and array.dtype == np.float32
            if not fits or not np.isfinite(array).all():
                raise MessageError(
                    f"the feature network's '{name}' must be finite float32 of shape {tuple(wanted.shape)}, "
                    f"but is {array.dtype} of shape {array.shape}, or not finite"
                )
        network = cls(*(int(n) for n in shape))
        network.load_state_dict({name: torch.tensor(np.asarray(arrays[name])) for name in state})
        return network.eval()


def _body(channels: int, size: int) -> list[nn.Module]:
    """Halve the image until it has at most 4 pixels a side, then one linear layer to the features."""
    layers: list[nn.Module] = []
    width = 32 if size <= 16 else 16
    while size > 4:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=True)]
        channels, width, size = width, min(2 * width, 64), (size + 1) // 2
    layers += [nn.Conv2d(channels, 64, 3, padding=1), nn.GroupNorm(4, 64), nn.ReLU()]
    return [*layers, nn.Flatten(), nn.Linear(64 * size * size, FEATURE_DIM)]
