"""All sites' uploads as one sequence of images, decoded when drawn: memory does not grow with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedpdiff.federation.spool import Spool

RESIDENT_BYTES = 2**26  # decoded uploads up to this size are kept in memory, where drawing is fastest


class SpooledImages:
    """Images on the server's disk; ``images[index]`` reads and decodes those that are asked for.

    What a process reads so is not part of its memory: the operating system's cache holds it as long as there
    is room.

    Parameters
    ----------
    spools
        At least one, of the same mechanism, complete; the images follow each other in this order.

    Attributes
    ----------
    labels
        int64, shape (N,).

    Raises
    ------
    DataError
        When labels are missing or damaged.
    """

    def __init__(self, spools: Sequence[Spool]) -> None:
        self._shards = [shard for spool in spools for shard in spool.shards()]
        self._shape = self._shards[0].image_shape
        self._starts = np.cumsum([0, *(shard.rows for shard in self._shards)])
        self.labels = torch.from_numpy(np.concatenate([shard.labels() for shard in self._shards]))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Size of all images when decoded, bytes."""
        return 4 * len(self) * int(np.prod(self._shape))

    def __getitem__(self, index: torch.Tensor, /) -> torch.Tensor:
        """Return decoded images, float32 (n, C, H, W).

        Parameters
        ----------
        index
            int64, shape (n,), from 0 to N - 1, in any order and with repetitions.

        Raises
        ------
        DataError
            When a shard is missing or damaged.
        """
        wanted = index.numpy()
        out = np.empty((len(wanted), *self._shape), np.float32)
        owners = np.searchsorted(self._starts, wanted, side="right") - 1
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner)
            images = np.empty((len(places), *self._shape), np.float32)
            self._shards[owner].read_images(wanted[places] - self._starts[owner], images)
            out[places] = images
        return torch.from_numpy(out)


def pooled_images(spools: Sequence[Spool]) -> tuple[torch.Tensor | SpooledImages, torch.Tensor]:
    """Return the images of all spools, to be indexed by a tensor, and their labels, int64 (N,).

    Up to ``RESIDENT_BYTES`` they are a tensor, float32 (N, C, H, W); beyond that they stay on the disk. What
    an index gives is the same.

    Raises
    ------
    DataError
        When a file is missing or damaged.
    """
    images = SpooledImages(spools)
    if images.nbytes > RESIDENT_BYTES:
        return images, images.labels
    return images[torch.arange(len(images))], images.labels
