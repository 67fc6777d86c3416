"""Share of generated images that a classifier of real images recognises as the class that was asked for."""

from __future__ import annotations

from fedpdiff.metrics.features import FeatureNetwork
from fedpdiff.types import LabelledImages

HIGHER_IS_BETTER = True
LOWER_BOUND = 0.0
UPPER_BOUND = 1.0


def accuracy(network: FeatureNetwork, samples: LabelledImages) -> float | None:
    """Return the share of ``samples`` recognised as their label, in [0, 1]; ``None`` without samples."""
    if len(samples) == 0:
        return None
    return float((network.predict(samples) == samples.labels).double().mean())
