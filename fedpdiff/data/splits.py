"""Private, public and test images: three parts of a source that share no row."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np

from fedpdiff.config import RunConfig
from fedpdiff.data.source import Source
from fedpdiff.errors import DataError
from fedpdiff.rng import numpy_generator


@dataclass(frozen=True)
class Splits:
    """``private`` is for the clients; ``public`` sets centre and clip norm; ``test`` only evaluates."""

    private: datasets.Dataset
    public: datasets.Dataset
    test: datasets.Dataset


def split_source(source: Source, config: RunConfig) -> Splits:
    """Split a source by class, in the same proportions, with the run's seed.

    The test images are the source's own test split, or ``test-fraction`` of the data where it has none. The
    public images are ``public-fraction`` of what is left; ``max-images`` then limits the private ones, which
    come in a random order so that contiguous partitions of them are fair samples.

    Raises
    ------
    DataError
        When nothing is left for the clients.
    """
    rng = numpy_generator(config.seed, "splits")
    labels = np.asarray(source.train["label"][:], dtype=np.int64)
    rest = np.arange(len(labels))
    test = source.test
    if test is None:
        held_out, rest = stratified(labels, rest, round(config.test_fraction * len(rest)), rng)
        test = source.train.select(held_out)
    public, rest = stratified(labels, rest, round(config.public_fraction * len(rest)), rng)
    if config.max_images:
        rest, _ = stratified(labels, rest, min(config.max_images, len(rest)), rng)
    if len(rest) == 0:
        raise DataError(
            f"no image is left for the clients: of {len(labels)} images, test-fraction = "
            f"{config.test_fraction} and public-fraction = {config.public_fraction} take all; lower them or "
            "use more data"
        )
    return Splits(source.train.select(rng.permutation(rest)), source.train.select(public), test)


def split_site(source: Source, test_fraction: float) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split a site's own images into training and test images.

    The same images are held out in every run, whatever its seed: an image that was once held out would
    otherwise be uploaded by a later run.

    Returns
    -------
    tuple
        Training and test images; the source's own test split where it has one.

    Raises
    ------
    DataError
        When nothing is left for training.
    """
    if source.test is not None:
        return source.train, source.test
    labels = np.asarray(source.train["label"][:], dtype=np.int64)
    count = round(test_fraction * len(labels))
    if count >= len(labels):
        raise DataError(
            f"of this site's {len(labels)} images, test-fraction = {test_fraction} holds out all; lower it "
            "or give more images"
        )
    test, train = stratified(labels, np.arange(len(labels)), count, numpy_generator(0, "site"))
    return source.train.select(train), source.train.select(test)


def stratified(
    labels: np.ndarray, rows: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``count`` of ``rows`` at random, each class in proportion.

    Parameters
    ----------
    labels
        Class of every row of the data, int64.
    rows
        Row numbers to draw from.
    count
        How many, 0 .. len(rows).
    rng
        Source of the draw.

    Returns
    -------
    tuple
        The rows drawn and the rows left, both in increasing order. Each class gives its exact share, rounded
        down or up (largest remainders first).
    """
    classes, sizes = np.unique(labels[rows], return_counts=True)
    shares = sizes * (count / max(len(rows), 1))
    quotas = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(quotas - shares, kind="stable")
    quotas[by_remainder[: count - quotas.sum()]] += 1
    drawn = [
        rng.permutation(rows[labels[rows] == label])[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    taken = np.sort(np.concatenate([*drawn, np.empty(0, dtype=np.int64)]))
    return taken, np.setdiff1d(rows, taken)
