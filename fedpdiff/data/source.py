"""A source of labelled images, with the same columns and class order wherever it was read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import datasets

from fedpdiff.config import RunConfig
from fedpdiff.data.classes import colour_names
from fedpdiff.data.colorize import add_colours
from fedpdiff.data.columns import class_names_of, find_columns, normalise
from fedpdiff.data.inside import check_paths
from fedpdiff.data.reading import DIGITS, TEST_NAMES, TRAIN_NAMES, local_path, read, read_local
from fedpdiff.errors import ConfigError, DataError


@dataclass(frozen=True)
class Source:
    """Images with the columns ``image``, ``label`` and ``source_row``, and the source's others.

    ``source_row`` is the row in the part of the source that it came from, counted from 0.
    """

    train: datasets.Dataset
    test: datasets.Dataset | None
    class_names: tuple[str, ...]


def load_source(config: RunConfig) -> Source:
    """Read the data set of the run, ``config.data``.

    Raises
    ------
    DataError
        When it cannot be read, or its columns or classes do not fit the settings.
    """
    root = None if config.data == DIGITS else local_path(config.data)
    return _source(read(config.data), config, config.class_names, f'data = "{config.data}"', root)


def load_site(config: RunConfig, data_path: str) -> Source:
    """Read a site's own images; their classes are matched by name with the run's.

    The run's classes are ``classes`` where set, else those of ``data``, so that every site numbers them
    alike.

    Raises
    ------
    DataError
        As :func:`load_source`; unknown classes are refused by name, absent ones are allowed.
    """
    found = read_local(data_path, "data-path")
    names = config.class_names or own_class_names(config)
    return _source(found, config, names, f'data-path = "{data_path}"', local_path(data_path))


def own_class_names(config: RunConfig) -> tuple[str, ...]:
    """Return the class names of the data set of the run, ``config.data``, in its own order.

    Raises
    ------
    DataError
        When it cannot be read, or has no column of labels.
    """
    train, _ = _train_and_test(read(config.data), f'data = "{config.data}"')
    return class_names_of(train, find_columns(train, config)[1])


def _source(
    found: datasets.DatasetDict, config: RunConfig, names: tuple[str, ...], where: str, root: Path | None
) -> Source:
    train, test = _train_and_test(found, where)
    columns = find_columns(train, config)
    names = names or class_names_of(train, columns[1])
    train = normalise(train, columns, names, where)
    test = None if test is None else normalise(test, columns, names, where)
    if root is not None:
        for part in (train, test):
            if part is not None:
                check_paths(part, root, where)
    if config.data_transform == "colorize":
        if config.channels != 3:
            raise ConfigError(
                f'data-transform = "colorize" paints in RGB: channels = {config.channels} must be 3'
            )
        train = add_colours(train, config.seed, "train")
        test = None if test is None else add_colours(test, config.seed, "test")
        names = colour_names(names)
    return Source(train, test, names)


def _train_and_test(
    found: datasets.DatasetDict, where: str
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Return the training and the test split (None where there is none); a single split is for training."""
    train = next((found[name] for name in TRAIN_NAMES if name in found), None)
    if train is None and len(found) == 1:
        train = next(iter(found.values()))
    if train is None:
        raise DataError(f"{where} has no split called train; it has: {', '.join(sorted(found))}")
    if len(train) == 0:
        raise DataError(f"{where} has no images")
    test = next((found[name] for name in TEST_NAMES if name in found and found[name] is not train), None)
    return train, test
