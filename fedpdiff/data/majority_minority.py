"""The majority/minority partition: many images of a client's own classes, and a few of every other."""

from __future__ import annotations

import datasets
import numpy as np
from flwr_datasets.partitioner import Partitioner

from fedpdiff.errors import DataError
from fedpdiff.rng import numpy_generator


class MajorityMinorityPartitioner(Partitioner):
    """Give each class to one client in full, and ``minority_images`` of it to each of the others.

    Of K classes, class c (counted from 0) is a majority class of client ``c * num_partitions // K``: two
    clients have the two halves of the list of classes. No image goes to two clients.

    With ``clusters``, client k belongs to cluster ``k * clusters // num_partitions``, class c to cluster
    ``c * clusters // K``, and the clients of a cluster share its classes equally. So there may be more
    clients than classes.

    Parameters
    ----------
    num_partitions
        Number of clients, at most the number of classes.
    partition_by
        Name of the label column.
    minority_images
        Images of each of its minority classes that a client has, >= 0.
    majority_images
        Most images of each of its majority classes that a client has; 0 for all that are left.
    clusters
        Groups of clients that share their majority classes; 0 for as many as there are clients.
    seed
        Decides which images go where.

    Raises
    ------
    DataError
        When there are more clusters than classes or clients, or too few images of a class.
    """

    def __init__(
        self,
        num_partitions: int,
        partition_by: str = "label",
        minority_images: int = 8,
        majority_images: int = 0,
        clusters: int = 0,
        seed: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (
            ("minority_images", minority_images),
            ("majority_images", majority_images),
            ("clusters", clusters),
        ):
            if not isinstance(value, int) or value < 0:
                raise DataError(f"partitioner-settings: {name} = {value} must be a whole number, 0 or more")
        if clusters > num_partitions:
            raise DataError(
                f"partitioner-settings: clusters = {clusters} must be at most clients = {num_partitions}"
            )
        self._num_partitions = num_partitions
        self._partition_by = partition_by
        self._minority_images = minority_images
        self._majority_images = majority_images
        self._clusters = clusters or num_partitions
        self._seed = seed
        self._rows: list[list[int]] | None = None

    @property
    def num_partitions(self) -> int:
        """Number of clients."""
        return self._num_partitions

    def load_partition(self, partition_id: int) -> datasets.Dataset:
        """Return the images of one client, 0 .. num_partitions - 1."""
        if self._rows is None:
            self._rows = self._divide()
        return self.dataset.select(self._rows[partition_id])

    def _divide(self) -> list[list[int]]:
        labels = np.asarray(self.dataset[self._partition_by][:])
        feature = self.dataset.features[self._partition_by]
        named = isinstance(feature, datasets.ClassLabel)
        names = feature.names if named else [str(value) for value in np.unique(labels)]
        values = range(len(names)) if named else np.unique(labels)
        if self._clusters > len(names):
            raise DataError(
                f'partitioner = "majority-minority" gives every client a class of its own: clients = '
                f"{self._clusters} must be at most the number of classes, {len(names)}; or let clients share "
                "classes, as with clusters = 2 in partitioner-settings"
            )
        rng = numpy_generator(self._seed, "majority-minority")
        clients: list[list[int]] = [[] for _ in range(self._num_partitions)]
        for index, value in enumerate(values):
            cluster = index * self._clusters // len(names)
            shares = self._shares(rng.permutation(np.flatnonzero(labels == value)), cluster, names[index])
            for rows, share in zip(clients, shares, strict=True):
                rows.extend(share.tolist())
        return [sorted(rows) for rows in clients]

    def _shares(self, rows: np.ndarray, cluster: int, name: str) -> list[np.ndarray]:
        """Divide the rows of one class: first the others' few, then equally among the cluster's clients."""
        everybody = range(self._num_partitions)
        owners = [k for k in everybody if k * self._clusters // self._num_partitions == cluster]
        given = self._minority_images * (self._num_partitions - len(owners))
        least = given + max(self._minority_images, 1) * len(owners)
        if 0 < len(rows) < least:
            raise DataError(
                f'the class "{name}" has {len(rows)} images to divide: too few for {self._minority_images} '
                f"at each of {self._num_partitions - len(owners)} clients and at least as many at each of "
                f"the {len(owners)} whose majority class it is; lower minority_images in "
                "partitioner-settings, or raise max-images"
            )
        own = iter(np.array_split(rows[given:], len(owners)))
        few = iter(np.split(rows[:given], max(self._num_partitions - len(owners), 1)))
        limit = self._majority_images or None
        return [next(own)[:limit] if client in owners else next(few) for client in everybody]
