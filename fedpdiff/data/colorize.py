"""Red and green images: the ``colorize`` transform, for the colour groups of PFDM (arXiv 2504.00952).

Half of each class becomes red and half green. The run then has twice the classes, "red 0", ..., "red 9",
"green 0", ..., "green 9", so that a class group can be a colour: with two clients and the majority-minority
partition, one client has the red images in full and the other the green ones. The images themselves are
painted when they are decoded (:mod:`fedpdiff.data.images`).
"""

from __future__ import annotations

import datasets
import numpy as np

from fedpdiff.data.classes import COLOURS, colour_names
from fedpdiff.rng import numpy_generator


def add_colours(dataset: datasets.Dataset, seed: int, part: str) -> datasets.Dataset:
    """Give each image a colour and a class of that colour.

    Parameters
    ----------
    dataset
        With the column ``label``, K classes.
    seed
        The run's seed; it decides which half of a class is red (an odd image out is red).
    part
        Name of the part of the source, so that each has its own random stream.

    Returns
    -------
    Dataset
        With the new column ``colour`` (red or green) and ``label`` = colour * K + the old label.
    """
    names = tuple(dataset.features["label"].names)
    labels = np.asarray(dataset["label"][:], dtype=np.int64)
    colours = np.zeros_like(labels)
    order = numpy_generator(seed, "colour", part).permutation(len(labels))
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        colours[of_class[1::2]] = 1
    dataset = dataset.remove_columns([name for name in ("label", "colour") if name in dataset.column_names])
    dataset = dataset.add_column("colour", colours, feature=datasets.ClassLabel(names=list(COLOURS)))
    new = datasets.ClassLabel(names=list(colour_names(names)))
    return dataset.add_column("label", colours * len(names) + labels, feature=new)
