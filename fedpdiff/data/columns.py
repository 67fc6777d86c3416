"""From a source's own columns and class names to the run's: ``image``, ``label`` and ``source_row``."""

from __future__ import annotations

import unicodedata
from typing import Any

import datasets
import numpy as np

from fedpdiff.config import RunConfig
from fedpdiff.errors import DataError

IMAGE_NAMES = ("image", "img", "images", "picture", "pixel_values")
LABEL_NAMES = ("label", "labels", "class", "fine_label", "target", "category")
MOST_NAMED = 10  # names in one message


def find_columns(dataset: datasets.Dataset, config: RunConfig) -> tuple[str, str]:
    """Return the names of the image and the label column.

    Named columns win; else one of the right type with a common name, else the only one of that type.

    Raises
    ------
    DataError
        When there is none, or several and none is named; the message lists the columns there are.
    """
    features = dataset.features
    images = [name for name, feature in features.items() if _may_hold_images(feature)]
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = [name for name in LABEL_NAMES if name in features] or typed
    image = _choose("image-column", config.image_column, images, IMAGE_NAMES, features)
    label = _choose("label-column", config.label_column, labels, LABEL_NAMES, features)
    if image == label:
        raise DataError(f'image-column and label-column are both "{image}"; they must differ')
    _check_label_type(features[label], label)
    return image, label


def _may_hold_images(feature: Any) -> bool:
    if isinstance(feature, datasets.Image):
        return True
    # Parquet written without the library's metadata: encoded bytes, bare or in {"bytes", "path"}.
    return (isinstance(feature, dict) and "bytes" in feature) or getattr(feature, "dtype", "") in (
        "binary",
        "large_binary",
    )


def _choose(
    setting: str, named: str, found: list[str], common: tuple[str, ...], features: datasets.Features
) -> str:
    there = ", ".join(f"{name} ({_type_name(feature)})" for name, feature in features.items())
    if named:
        if named in features:
            return named
        raise DataError(f'{setting} = "{named}" is not a column of the data; it has: {there}')
    known = [name for name in common if name in found]
    if known or len(found) == 1:
        return (known or found)[0]
    reason = "no column looks right" if not found else "several columns are possible"
    raise DataError(f"{setting} is not set and {reason}; the data has: {there}; name one in {setting}")


def _type_name(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, datasets.Value) else type(feature).__name__


def class_names_of(dataset: datasets.Dataset, column: str) -> tuple[str, ...]:
    """Return a label column's class names in its own order: as declared, else sorted (numbers by value)."""
    feature = dataset.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(dict.fromkeys(_composed(name) for name in feature.names))
    values = [value for value in dataset.unique(column) if value is not None]
    return tuple(dict.fromkeys(_name(feature, value) for value in sorted(values)))


def _name(feature: Any, value: Any) -> str:
    return _composed(str(feature.names[value] if isinstance(feature, datasets.ClassLabel) else value))


def _composed(name: str) -> str:
    """Return a name with its accents as single characters: folders of some systems have them apart (NFD)."""
    return unicodedata.normalize("NFC", name)


def _check_label_type(feature: Any, column: str) -> None:
    kind = _type_name(feature)
    if isinstance(feature, datasets.ClassLabel) or kind.startswith(
        ("int", "uint", "string", "large_string", "bool")
    ):
        return
    raise DataError(
        f'the label column "{column}" holds {kind} values; labels are class names or whole '
        f"numbers (label-column names another column)"
    )


def normalise(
    dataset: datasets.Dataset, columns: tuple[str, str], class_names: tuple[str, ...], where: str
) -> datasets.Dataset:
    """Return the data with columns ``image``, ``label`` (in the order of ``class_names``) and ``source_row``.

    All other columns stay, for partitions by a natural id; one that already has one of these three names
    goes.

    Parameters
    ----------
    dataset
        Rows as read.
    columns
        Names of the image and the label column there.
    class_names
        The run's classes, in order; the data may lack some of them.
    where
        The source's name, for messages.

    Raises
    ------
    DataError
        When a row has no label or its class is not one of ``class_names``.
    """
    image, label = columns
    missing = [name for name in columns if name not in dataset.column_names]
    if missing:
        raise DataError(
            f'{where}: a split lacks the column "{missing[0]}"; it has: {", ".join(dataset.column_names)}'
        )
    numbers = _label_numbers(dataset, label, class_names, where)
    in_the_way = ({"image", "source_row", "label"} & set(dataset.column_names)) - {image}
    dataset = dataset.remove_columns(sorted(in_the_way | {label}))
    if image != "image":
        dataset = dataset.rename_column(image, "image")
    if dataset.features["image"] != datasets.Image():
        dataset = dataset.cast_column("image", datasets.Image())
    dataset = dataset.add_column("label", numbers, feature=datasets.ClassLabel(names=list(class_names)))
    return dataset.add_column("source_row", np.arange(len(dataset)))


def _label_numbers(
    dataset: datasets.Dataset, column: str, class_names: tuple[str, ...], where: str
) -> np.ndarray:
    """Map each row's label to its place in ``class_names``, by name."""
    feature = dataset.features[column]
    values = dataset[column][:]
    present = set(values)
    if None in present or (isinstance(feature, datasets.ClassLabel) and -1 in present):
        unlabelled = sum(value is None or value == -1 for value in values)
        raise DataError(
            f'{where}: {unlabelled} rows have no label in the column "{column}"; every image needs one'
        )
    name_of = {value: _name(feature, value) for value in present}
    unknown = sorted(set(name_of.values()) - set(class_names))
    if unknown:
        shown = ", ".join(unknown[:MOST_NAMED]) + (", ..." if len(unknown) > MOST_NAMED else "")
        raise DataError(
            f"{where}: the data has classes that the run does not: {shown}; the run's classes are: "
            f"{', '.join(class_names)}; add them to classes, or take these images out"
        )
    number_of = {value: class_names.index(name) for value, name in name_of.items()}
    return np.array([number_of[value] for value in values], dtype=np.int64)
