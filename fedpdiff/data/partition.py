"""How simulated clients share the private images: ``flwr_datasets`` partitioners, ours, or a user's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    PathologicalPartitioner,
    ShardPartitioner,
)

from fedpdiff.config import RunConfig
from fedpdiff.data.majority_minority import MajorityMinorityPartitioner
from fedpdiff.data.user_partitioner import user_partitioner
from fedpdiff.errors import ConfigError, DataError, FedpdiffError

# The name in the settings, the class, and the keywords it gets where the user gives none.
BUILT_IN: dict[str, tuple[type[Partitioner], dict[str, Any]]] = {
    "iid": (IidPartitioner, {}),
    "dirichlet": (DirichletPartitioner, {"alpha": 0.5, "min_partition_size": 1}),
    "pathological": (PathologicalPartitioner, {"num_classes_per_partition": 2}),
    "shard": (ShardPartitioner, {}),
    "natural-id": (NaturalIdPartitioner, {}),
    "majority-minority": (MajorityMinorityPartitioner, {}),
}


def make_partitioner(config: RunConfig) -> Partitioner:
    """Return the partitioner that the settings name, with their keywords.

    It gets ``num_partitions = clients``, ``partition_by = "label"`` and the run's ``seed`` where its
    constructor takes them (natural ids need their column named) and the settings do not say otherwise.

    Raises
    ------
    ConfigError
        When the name, the module or a keyword is wrong; the message lists what is accepted.
    """
    kind, defaults = BUILT_IN.get(config.partitioner) or (user_partitioner(config), {})
    accepted = inspect.signature(kind).parameters
    _check_keywords(accepted, defaults, config)
    standard = {"num_partitions": config.clients, "partition_by": "label", "seed": config.seed}
    keywords = {name: value for name, value in standard.items() if name in accepted}
    try:
        return kind(**(keywords | defaults | config.partitioner_keywords))
    except FedpdiffError:
        raise
    except Exception as error:
        raise ConfigError(
            f'partitioner = "{config.partitioner}" refuses partitioner-settings = '
            f'"{config.partitioner_settings}": {error}'
        ) from error


def _check_keywords(
    accepted: Mapping[str, inspect.Parameter], defaults: dict[str, Any], config: RunConfig
) -> None:
    """Refuse keywords that the constructor does not take, and the lack of those that it needs."""
    given = config.partitioner_keywords
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    named = [name for name, p in accepted.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    settable = [name for name in named if name != "num_partitions"]
    unknown = [name for name in given if name not in settable and (name in accepted or not takes_any)]
    problem = f"does not take {', '.join(unknown)}" if unknown else ""
    provided = {"num_partitions", "seed", *defaults, *given}
    if config.partitioner != "natural-id":  # the labels are no natural id: its column must be named
        provided.add("partition_by")
    needed = [n for n in settable if accepted[n].default is inspect.Parameter.empty and n not in provided]
    if needed and not problem:
        problem = f"needs {', '.join(needed)}"
    if problem:
        raise ConfigError(
            f'partitioner-settings = "{config.partitioner_settings}": partitioner = "{config.partitioner}" '
            f"{problem}; it takes: {', '.join(settable) or 'nothing'} (clients is the number of partitions)"
        )


def divide(private: datasets.Dataset, config: RunConfig) -> list[datasets.Dataset]:
    """Return the partitions of all clients, in order.

    Raises
    ------
    DataError
        When the images cannot be divided so, or not into as many parts as there are clients.
    """
    partitioner = make_partitioner(config)
    column = config.partitioner_keywords.get("partition_by", "label")
    if column not in private.column_names:
        raise DataError(
            f'partitioner-settings: partition_by = "{column}" is not a column of the data; it has: '
            f"{', '.join(private.column_names)}"
        )
    try:
        partitioner.dataset = private
        number = partitioner.num_partitions
        parts = [partitioner.load_partition(k) for k in range(min(number, config.clients))]
    except FedpdiffError:
        raise
    except Exception as error:
        raise DataError(
            f'partitioner = "{config.partitioner}" with "{config.partitioner_settings}" cannot divide '
            f"{len(private)} images among {config.clients} clients: {error} (change partitioner-settings, "
            f"clients or max-images)"
        ) from error
    if number != config.clients:
        raise DataError(
            f'partitioner = "{config.partitioner}" makes {number} partitions of this data, but clients = '
            f"{config.clients}; set clients = {number}"
        )
    _check_parts(parts, config)
    return parts


def _check_parts(parts: list[datasets.Dataset], config: RunConfig) -> None:
    """Refuse clients without images and images with two clients: the guarantee is for one release of each."""
    for k, part in enumerate(parts):
        if not isinstance(part, datasets.Dataset) or len(part) == 0:
            raise DataError(
                f'partitioner = "{config.partitioner}" gives client {k} no images; change '
                f"partitioner-settings, lower clients or use more images"
            )
    rows = np.concatenate([part["source_row"][:] for part in parts])
    repeated = len(rows) - len(np.unique(rows))
    if repeated:
        raise DataError(
            f'partitioner = "{config.partitioner}" hands out {repeated} images more than once; every image '
            f"must go to one client at most"
        )
