"""What one client sees: training and test images, and which classes it has many or few images of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import datasets

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.data.classes import absent_classes, class_groups
from fedpdiff.data.images import decode_images, to_labelled_images
from fedpdiff.data.source import Source, load_site, load_source
from fedpdiff.data.splits import split_site, split_source
from fedpdiff.errors import ConfigError, DataError
from fedpdiff.types import LabelledImages


@dataclass(frozen=True)
class ClientData:
    """One client's images.

    Parameters
    ----------
    train
        Its private images: released once, and the personal denoiser's training set.
    test
        Held-out images, in nobody's training set: the simulation's common ones, or the site's own.
    class_names
        The run's classes in the order of the labels.
    majority, minority
        Classes (label numbers) that the client has many and few images of; see
        :func:`~fedpdiff.data.classes.class_groups`.
    digests
        Of the originals of ``train``, in the same order; see :func:`~fedpdiff.data.images.decode_images`.
    persons
        Who is shown in each image of ``train``; None where no column says so.
    """

    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    majority: tuple[int, ...]
    minority: tuple[int, ...]
    digests: tuple[bytes, ...]
    persons: tuple[str, ...] | None

    @property
    def absent(self) -> tuple[int, ...]:
        """Classes of the run that the client has no image of."""
        return absent_classes(self.train.counts(len(self.class_names)))


def load_client(config: RunConfig, node: NodeConfig, person_column: str = "") -> ClientData:
    """Load the images of one client: its partition in simulation, its own ``data-path`` in deployment.

    Parameters
    ----------
    config, node
        Settings of the run and of the client.
    person_column
        Column of the data that says who is shown; "" for none.

    Raises
    ------
    ConfigError
        When the simulation has another number of nodes than ``clients``.
    DataError
        When the images cannot be read or divided.
    """
    if node.simulated:
        if node.partition_id is None or node.num_partitions != config.clients:
            raise ConfigError(
                f"there are {node.num_partitions} simulated nodes, but clients = {config.clients}; run with "
                f"--federation-config 'num-supernodes={config.clients}', or set clients={node.num_partitions}"
            )
        where, (source, parts, test) = f'data = "{config.data}"', _divided(config)
        train = parts[node.partition_id]
    else:
        where, source = f'data-path = "{node.data_path}"', load_site(config, node.data_path)
        train, test = split_site(source, config.test_fraction)
    images, digests = decode_images(train, config, where)
    majority, minority = class_groups(images.counts(len(source.class_names)))
    return ClientData(
        train=images,
        test=to_labelled_images(test, config, where),
        class_names=source.class_names,
        majority=majority,
        minority=minority,
        digests=tuple(digests),
        persons=_persons(train, person_column, where) if person_column else None,
    )


@lru_cache(maxsize=1)
def _divided(config: RunConfig) -> tuple[Source, list[datasets.Dataset], datasets.Dataset]:
    """Return a simulation's source, the parts of all clients, and the test images.

    A worker serves many clients of one run; each would divide the images of all of them anew.
    """
    from fedpdiff.data.partition import divide  # heavy, and a real site's data are not divided

    source = load_source(config)
    splits = split_source(source, config)
    return source, divide(splits.private, config), splits.test


def _persons(dataset: datasets.Dataset, column: str, where: str) -> tuple[str, ...]:
    """Return who is shown in each row; every row must say so, or the limit per person would mean nothing."""
    if column not in dataset.column_names:
        raise DataError(
            f'{where}: person-column = "{column}" is not a column of the data; it has: '
            f"{', '.join(dataset.column_names)}"
        )
    persons = tuple("" if value is None else str(value).strip() for value in dataset[column][:])
    for row, person in zip(dataset["source_row"][:], persons, strict=True):
        if not person:
            raise DataError(
                f'{where}: row {row} (from 0) names nobody in person-column = "{column}"; fill it in, or '
                "take the row out"
            )
    return persons
