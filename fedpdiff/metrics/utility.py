"""Downstream utility: what a classifier learns from generated images, tested on real ones.

A classifier is trained on the samples of one method alone, or on a client's own images with the samples
added, and judged on real test images: fidelity and variety in one number that a user cares about. Its
difference between majority and minority classes says how fair the images are.
"""

from __future__ import annotations

from fedpdiff.metrics.accuracy import accuracy
from fedpdiff.metrics.feature_training import train_classifier
from fedpdiff.metrics.features import FeatureNetwork
from fedpdiff.types import LabelledImages, concatenate

HIGHER_IS_BETTER = True
LOWER_BOUND = 0.0
UPPER_BOUND = 1.0


class Downstream:
    """The classifiers that one set of samples trains.

    Parameters
    ----------
    samples
        Generated images with the classes asked for.
    own
        A client's own training images; None where nobody's are at hand.
    num_classes
        K of the run.
    seed
        Of weights and batches, the same for every method.
    """

    def __init__(
        self, samples: LabelledImages, own: LabelledImages | None, num_classes: int, seed: int
    ) -> None:
        self._alone = _train(samples, num_classes, seed)
        self._added = None if own is None else _train(concatenate([own, samples]), num_classes, seed)

    def alone(self, real: LabelledImages) -> float | None:
        """Return the share of real images that the classifier of samples alone recognises, in [0, 1]."""
        return None if self._alone is None else accuracy(self._alone, real)

    def added(self, real: LabelledImages) -> float | None:
        """Return the same for the classifier of own images and samples; None without own images."""
        return None if self._added is None else accuracy(self._added, real)


def _train(images: LabelledImages, num_classes: int, seed: int) -> FeatureNetwork | None:
    return train_classifier(images, num_classes, seed) if len(images) > 1 else None
