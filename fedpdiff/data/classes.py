"""The run's classes: their names, and of which ones a client has many or few images.

Nothing heavy is imported here: a coordinator whose settings name the classes reads no data to know them.
"""

from __future__ import annotations

from fedpdiff.config import RunConfig

COLOURS = ("red", "green")  # of coloured data; also the order of the RGB channels that are painted


def class_names(config: RunConfig) -> tuple[str, ...]:
    """Return the run's class names in the order of the label numbers (for coloured data: each colour's).

    They are ``classes`` where set, else those of ``data``.

    Raises
    ------
    DataError
        When ``data`` has to be read and cannot be.
    """
    names = config.class_names
    if not names:
        from fedpdiff.data.source import own_class_names

        names = own_class_names(config)
    return colour_names(names) if config.data_transform == "colorize" else names


def colour_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the class names of the coloured data: all the red ones, then all the green ones."""
    return tuple(f"{colour} {name}" for colour in COLOURS for name in names)


def class_groups(counts: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the majority and the minority classes for these numbers of images per class.

    A class is a majority class when it has more than half as many images as the largest class; the other
    classes that are present are minority classes. Absent classes are in neither group.
    """
    most = max(counts, default=0)
    majority = tuple(label for label, count in enumerate(counts) if 2 * count > most)
    minority = tuple(label for label, count in enumerate(counts) if 0 < 2 * count <= most)
    return majority, minority


def absent_classes(counts: list[int]) -> tuple[int, ...]:
    """Return the classes of the run of which there is no image among these."""
    return tuple(label for label, count in enumerate(counts) if count == 0)
