"""Scores of generated images per group of classes: which images are compared, in which space.

Reference are the real test images of the group's classes, the same number of each, because samples are
drawn equally per class and the distance should not measure the mix of classes. All methods of a run must
offer equally many samples per class: the Frechet distance falls with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from fedpdiff.metrics.accuracy import accuracy
from fedpdiff.metrics.features import FeatureNetwork, FeatureSpace
from fedpdiff.metrics.frechet import frechet
from fedpdiff.metrics.kernel_distance import kernel_distance
from fedpdiff.metrics.precision_recall import precision_recall
from fedpdiff.metrics.utility import Downstream
from fedpdiff.results import GroupScores
from fedpdiff.types import LabelledImages

__all__ = ["GroupScores", "difference_spread", "evaluate_groups", "reference_images"]


def evaluate_groups(
    samples: LabelledImages,
    real: LabelledImages,
    groups: Mapping[str, tuple[int, ...]],
    network: FeatureNetwork,
    space: FeatureSpace | None = None,
    downstream: Downstream | None = None,
) -> dict[str, GroupScores]:
    """Score one set of samples for every group of classes.

    Parameters
    ----------
    samples
        Generated images with the classes asked for; or, for the floor, real images that are not in ``real``.
    real
        Real test images, in no training set.
    groups
        Classes of each group, for example ``{"majority": (0, 1), "minority": (2,)}``; empty groups are left
        out. Of the group ``absent``, classes that a client has no image of, there is the accuracy alone:
        whether the hint makes the class is the question there, not how near its images come.
    network
        The classifier: judges accuracy and, without ``space``, is the feature space as well.
    space
        Another feature space, for example Inception.
    downstream
        The classifiers that these samples train; None: no utility.

    Returns
    -------
    dict
        Scores by group. Accuracy needs one sample; precision and recall more than 3 images on each side; the
        Frechet distance more images on each side than the space has features. Otherwise ``None``.
    """
    chosen: FeatureSpace = space or network
    return {
        name: GroupScores(accuracy=accuracy(network, samples.of_classes(classes)))
        if name == "absent"
        else _evaluate(samples, real, classes, network, chosen, downstream)
        for name, classes in groups.items()
        if classes
    }


def _evaluate(
    samples: LabelledImages,
    real: LabelledImages,
    classes: Iterable[int],
    network: FeatureNetwork,
    space: FeatureSpace,
    downstream: Downstream | None,
) -> GroupScores:
    wanted, there = samples.of_classes(classes), reference_images(real, classes)
    reference = space.features(there)
    generated = space.features(wanted)
    precision, recall = precision_recall(reference, generated)
    return GroupScores(
        frechet=frechet(reference, generated),
        precision=precision,
        recall=recall,
        accuracy=accuracy(network, wanted),
        kid=kernel_distance(reference, generated),
        utility=downstream.alone(there) if downstream else None,
        utility_added=downstream.added(there) if downstream else None,
    )


def reference_images(real: LabelledImages, classes: Iterable[int]) -> LabelledImages:
    """Return real images of ``classes``, equally many of each where that keeps at least half of them.

    Which images of a class are kept follows from their order alone (evenly spaced), so every method and every
    client meets the same reference.
    """
    group = real.of_classes(classes)
    positions = [torch.nonzero(group.labels == label).flatten() for label in group.labels.unique()]
    if not positions:
        return group
    smallest = min(len(p) for p in positions)
    if 2 * smallest * len(positions) < len(group):
        return group
    kept = [p[torch.arange(smallest) * len(p) // smallest] for p in positions]
    return group.select(torch.cat(kept).sort().values)


def difference_spread(
    one: LabelledImages,
    other: LabelledImages,
    real: LabelledImages,
    classes: Iterable[int],
    space: FeatureSpace,
    generator: np.random.Generator,
    repeats: int = 20,
) -> float | None:
    """Return the bootstrap standard deviation of the difference of two Frechet distances.

    Both distances are to the same resampled reference, so what they share cancels. With ``one`` the
    local-only and ``other`` the centralised samples it is the spread that
    :func:`fedpdiff.results.gap_closed` asks for in a single run; it covers other draws of images, not
    training again.

    Returns
    -------
    float or None
        ``None`` where either distance has too few images.
    """
    classes = tuple(classes)
    reference = space.features(reference_images(real, classes))
    features = [space.features(images.of_classes(classes)) for images in (one, other)]
    differences = []
    for _ in range(repeats):
        some = _resample(reference, generator)
        distances = [frechet(some, _resample(values, generator)) for values in features]
        if distances[0] is None or distances[1] is None:
            return None
        differences.append(distances[0] - distances[1])
    return float(np.std(differences, ddof=1))


def _resample(features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if len(features) == 0:
        return features
    return features[generator.integers(len(features), size=len(features))]
