"""Do generated images copy training images, more than they resemble images that were held out?

Two ratios from the literature, which flag some honest images too, hence never without their value on
held-out images; and two tests that are calibrated by themselves:

* Carlini et al. 2023 ("Extracting training data from diffusion models"): an image is flagged when its
  distance to the nearest training image is at most ``alpha`` = 0.5 times the mean of those to the ``n`` = 50
  nearest;
* nearest against second nearest: flagged when NN1 / NN2 is at most 1/3;
* closer to train: of equally many training and held-out images, how often is the nearest a training image?
  0.5 where nothing was copied;
* Meehan, Chaudhuri & Dasgupta 2020, C_T: are generated images nearer to the training images than held-out
  ones are (one-sided rank test)?

Distances are L2 in pixels, or in any feature space that the caller maps images to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fedpdiff.attacks.matching import matched_rows
from fedpdiff.attacks.statistics import Rate, exact_rate
from fedpdiff.attacks.uploads import Labels, Rows, labels_for, rows
from fedpdiff.errors import DataError

CARLINI_ALPHA = 0.5
CARLINI_NEIGHBOURS = 50
NEAREST_RATIO = 1 / 3
_EXCHANGES = 999
_CHUNK = 512


@dataclass(frozen=True)
class Flagged:
    """Share of images that a ratio flags as copies, and the share of held-out images that it flags too."""

    generated: float
    held_out: float


@dataclass(frozen=True)
class Memorisation:
    """What one set of generated images gives away about the training images.

    Attributes
    ----------
    carlini, nearest_ratio
        The two ratios with their baselines.
    closer_to_train
        Share of generated images whose nearest image is a training one, with its exact binomial interval;
        0.5: nothing copied.
    closer_p_value
        Chance of so large a share if training and held-out images were exchangeable, by exchanging them; the
        interval alone takes the two reference sets as given, this does not. At least 1/1000.
    rank_p_value
        One-sided p-value of the rank test; small: generated images lie nearer to the training images than
        held-out ones do.
    generated, references
        Number of generated images, and of images in each of the two reference sets.
    """

    carlini: Flagged
    nearest_ratio: Flagged
    closer_to_train: Rate
    closer_p_value: float
    rank_p_value: float
    generated: int
    references: int


@dataclass(frozen=True)
class LabelledRows:
    """Images as rows with their classes.

    Attributes
    ----------
    values
        float64, shape (n, d).
    labels
        int64, shape (n,).
    """

    values: Rows
    labels: Labels

    @classmethod
    def of(cls, images: ArrayLike, labels: ArrayLike) -> LabelledRows:
        """Flatten images of shape (n, ...)."""
        values = rows(images)
        return cls(values, labels_for(labels, len(values), "images"))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> LabelledRows:
        """Return the images at these positions."""
        return LabelledRows(self.values[index], self.labels[index])


def same_classes(
    first: LabelledRows, second: LabelledRows, generator: np.random.Generator
) -> tuple[LabelledRows, LabelledRows]:
    """Return random subsets with equally many images of each class on both sides, in random order."""
    left, right = matched_rows(first.labels, second.labels, generator)
    return first.take(left), second.take(right)


def memorisation(
    generated: LabelledRows, train: LabelledRows, held_out: LabelledRows, generator: np.random.Generator
) -> Memorisation:
    """Compare generated images with training and held-out images of the same distribution.

    Parameters
    ----------
    generated
        What the model made.
    train
        What it was trained on.
    held_out
        Images of the same source and preprocessing that it never saw. Where the two have other shares of
        classes, equally many of each class are compared.
    generator
        Draws the equally large reference sets and the exchanges.

    Raises
    ------
    DataError
        When a set has fewer than two images, or no class is both in ``train`` and ``held_out``.
    """
    inside, outside = same_classes(train, held_out, generator)
    if min(len(generated), len(inside), len(train), len(held_out)) < 2:
        raise DataError(
            f"{len(generated)} generated images, {len(inside)} training and held-out images of the same "
            "classes: memorisation needs two or more of each"
        )
    share, p_value = _closer_to_train(generated, inside, outside, generator)
    some, honest = same_classes(generated, held_out, generator)  # the rank test compares like with like
    rank = stats.mannwhitneyu(
        _nearest(some.values, train.values, 1)[:, 0],
        _nearest(honest.values, train.values, 1)[:, 0],
        alternative="less",
    )
    found, base = (
        _nearest(side.values, train.values, min(CARLINI_NEIGHBOURS, len(train)))
        for side in (generated, held_out)
    )
    return Memorisation(
        carlini=Flagged(_carlini(found), _carlini(base)),
        nearest_ratio=Flagged(_nearest_ratio(found), _nearest_ratio(base)),
        closer_to_train=share,
        closer_p_value=p_value,
        rank_p_value=float(rank.pvalue),
        generated=len(generated),
        references=len(inside),
    )


def _closer_to_train(
    generated: LabelledRows, inside: LabelledRows, outside: LabelledRows, generator: np.random.Generator
) -> tuple[Rate, float]:
    """Return the share of images nearest to ``inside``, and its p-value under exchange within classes."""
    pool = np.concatenate([inside.values, outside.values])
    labels = np.concatenate([inside.labels, outside.labels])
    nearest = np.concatenate([part.argmin(1) for part in _squared_distances(generated.values, pool)])

    def share(is_inside: NDArray[np.bool_]) -> float:
        return float(is_inside[nearest].mean())

    sides = np.arange(len(pool)) < len(inside)
    observed = share(sides)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    as_extreme = 0
    for _ in range(_EXCHANGES):  # the nearest image stays what it is; on whose side it is may change
        exchanged = sides.copy()
        for group in groups:
            exchanged[group] = generator.permutation(sides[group])
        as_extreme += share(exchanged) >= observed
    rate = exact_rate(round(observed * len(generated)), len(generated))
    return rate, (as_extreme + 1) / (_EXCHANGES + 1)


def _carlini(distances: Rows) -> float:
    ratio = distances[:, 0] / (CARLINI_ALPHA * np.maximum(distances.mean(1), 1e-12))
    return float((ratio <= 1).mean())


def _nearest_ratio(distances: Rows) -> float:
    return float((distances[:, 0] <= NEAREST_RATIO * distances[:, 1]).mean())


def _nearest(images: Rows, references: Rows, count: int) -> Rows:
    """Return the ``count`` smallest distances of each image, ascending, shape (n, count)."""
    parts = [
        np.partition(part, count - 1, axis=1)[:, :count] for part in _squared_distances(images, references)
    ]
    result: Rows = np.sqrt(np.sort(np.concatenate(parts), axis=1))
    return result


def _squared_distances(images: Rows, references: Rows) -> Iterator[Rows]:
    """Yield squared distances of some images to all references, shape (some, r), until all are done."""
    norms = (references**2).sum(1)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        yield np.maximum((part**2).sum(1)[:, None] + norms - 2 * part @ references.T, 0.0)
