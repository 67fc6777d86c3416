"""A partitioner of one's own, the example of docs/data.md: clients differ in how much ink they use."""

from __future__ import annotations

import datasets
import numpy as np
from flwr_datasets.partitioner import Partitioner


class ByInk(Partitioner):
    """Sort the images by mean brightness and cut them into equal parts: client 0 has the faintest strokes.

    Parameters
    ----------
    num_partitions
        Number of clients; fedpdiff passes the setting ``clients``.
    mixing
        Share of the images, 0 to 1, that is dealt out at random instead.
    seed
        Decides which; fedpdiff passes the run's seed.
    """

    def __init__(self, num_partitions: int, mixing: float = 0.0, seed: int = 1) -> None:
        super().__init__()
        if not 0 <= mixing <= 1:
            raise ValueError(f"mixing = {mixing} must lie in 0..1")
        self._num_partitions = num_partitions
        self._mixing = mixing
        self._seed = seed
        self._rows: list[np.ndarray] | None = None

    @property
    def num_partitions(self) -> int:
        """Number of clients."""
        return self._num_partitions

    def load_partition(self, partition_id: int) -> datasets.Dataset:
        """Return the images of one client."""
        if self._rows is None:
            ink = np.array([np.asarray(image.convert("L")).mean() for image in self.dataset["image"]])
            order = np.argsort(ink, kind="stable")
            rng = np.random.default_rng(self._seed)
            mixed = np.flatnonzero(rng.random(len(order)) < self._mixing)
            order[mixed] = order[rng.permutation(mixed)]
            self._rows = np.array_split(order, self._num_partitions)
        return self.dataset.select(self._rows[partition_id])
