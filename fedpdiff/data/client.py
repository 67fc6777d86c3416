"""What one client sees: training and test images, and which classes it has many or few images of."""

from __future__ import annotations

from dataclasses import dataclass

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.data.images import to_labelled_images
from fedpdiff.data.partition import divide
from fedpdiff.data.source import load_site, load_source
from fedpdiff.data.splits import split_site, split_source
from fedpdiff.errors import ConfigError
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
        Classes (label numbers) that the client has many and few images of; see :func:`class_groups`.
    """

    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    majority: tuple[int, ...]
    minority: tuple[int, ...]


def load_client(config: RunConfig, node: NodeConfig) -> ClientData:
    """Load the images of one client: its partition in simulation, its own ``data-path`` in deployment.

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
        where, source = f'data = "{config.data}"', load_source(config)
        splits = split_source(source, config)
        train, test = divide(splits.private, config)[node.partition_id], splits.test
    else:
        where, source = f'data-path = "{node.data_path}"', load_site(config, node.data_path)
        train, test = split_site(source, config.test_fraction)
    images = to_labelled_images(train, config, where)
    majority, minority = class_groups(images.counts(len(source.class_names)))
    return ClientData(images, to_labelled_images(test, config, where), source.class_names, majority, minority)


def class_groups(counts: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the majority and the minority classes for these numbers of images per class.

    A class is a majority class when it has more than half as many images as the largest class; the other
    classes that are present are minority classes. Absent classes are in neither group.
    """
    most = max(counts, default=0)
    majority = tuple(label for label, count in enumerate(counts) if 2 * count > most)
    minority = tuple(label for label, count in enumerate(counts) if 0 < 2 * count <= most)
    return majority, minority
