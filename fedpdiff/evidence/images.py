"""The clean images of a simulation: who held which, which are public, and which nobody ever used.

Members and non-members must come from the same distribution with the same preprocessing: an attack tells a
training from a test split of another origin, or one mix of classes from another, without any leak.
"""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np
import torch

from fedpdiff.config import RunConfig
from fedpdiff.data.images import decode_images, to_labelled_images
from fedpdiff.data.partition import divide
from fedpdiff.data.source import load_source
from fedpdiff.data.splits import split_source
from fedpdiff.types import LabelledImages, concatenate

_ENOUGH = 500  # left-over images, to do without a test split of another origin
_ENOUGH_PUBLIC = 100

_SAME_SPLIT = "Non-members are images of the same random split of the data as the members, held by nobody."
_OWN_TEST_SPLIT = (
    "Non-members are the data set's own test images: no other images are left. If whoever made the data set "
    "chose them otherwise than the training images, attacks look stronger than they are."
)


@dataclass(frozen=True, eq=False)
class RunImages:
    """All clean images of a simulated run.

    Attributes
    ----------
    clients
        Training images of each client, in order.
    digests
        Of the originals, for each client in the order of its images.
    public
        They set centre and clip norm.
    attacker
        What an attacker holds: the public images, or held-out ones where there are too few.
    held_out
        In nobody's hands and in no public part; non-members.
    origin
        Where ``held_out`` comes from, in a sentence.
    class_names
        The run's classes in order.
    """

    clients: tuple[LabelledImages, ...]
    digests: tuple[tuple[bytes, ...], ...]
    public: LabelledImages
    attacker: LabelledImages
    held_out: LabelledImages
    origin: str
    class_names: tuple[str, ...]


def load_images(config: RunConfig) -> RunImages:
    """Load and divide the data as the run did.

    Raises
    ------
    DataError
        When the data cannot be read or divided.
    """
    source = load_source(config)
    splits = split_source(source, config)
    parts = divide(splits.private, config)
    decoded = [decode_images(part, config, f'data = "{config.data}"') for part in parts]
    own_test_split = source.test is not None
    used = [*parts, splits.public, *([] if own_test_split else [splits.test])]
    left = _left_over(source.train, used)
    found = [left] if own_test_split and len(left) >= _ENOUGH else [splits.test]
    found += [left] if not own_test_split and len(left) else []
    public = to_labelled_images(splits.public, config)
    held_out = concatenate(to_labelled_images(part, config) for part in found)
    attacker, held_out = _attacker_images(public, held_out)
    return RunImages(
        clients=tuple(images for images, _ in decoded),
        digests=tuple(tuple(digests) for _, digests in decoded),
        public=public,
        attacker=attacker,
        held_out=held_out,
        origin=_OWN_TEST_SPLIT if own_test_split and found[0] is splits.test else _SAME_SPLIT,
        class_names=source.class_names,
    )


def _attacker_images(
    public: LabelledImages, held_out: LabelledImages
) -> tuple[LabelledImages, LabelledImages]:
    """Return the attacker's images and the non-members; they share none."""
    if len(public) >= _ENOUGH_PUBLIC:
        return public, held_out
    order = torch.argsort(held_out.labels, stable=True)  # every second one of each class
    return held_out.select(order[::2]), held_out.select(order[1::2])


def _left_over(train: datasets.Dataset, used: list[datasets.Dataset]) -> datasets.Dataset:
    """Return the training images of the source that are in none of these parts of it."""
    taken = np.concatenate([np.asarray(part["source_row"][:], np.int64) for part in used])
    rows = np.asarray(train["source_row"][:], np.int64)
    return train.select(np.flatnonzero(~np.isin(rows, taken)))
