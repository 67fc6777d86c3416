"""What generated images are measured with: feature spaces, and one file per metric.

Every metric file states its direction and bounds as ``HIGHER_IS_BETTER``, ``LOWER_BOUND`` and ``UPPER_BOUND``
and returns ``None`` instead of a number that would mislead.
"""

from __future__ import annotations

from fedpdiff.metrics.accuracy import accuracy
from fedpdiff.metrics.feature_training import cached_feature_network, train_feature_network
from fedpdiff.metrics.features import FEATURE_DIM, FeatureNetwork, FeatureSpace
from fedpdiff.metrics.frechet import frechet
from fedpdiff.metrics.inception import InceptionFeatures
from fedpdiff.metrics.kernel_distance import kernel_distance
from fedpdiff.metrics.precision_recall import precision_recall
from fedpdiff.metrics.utility import Downstream

__all__ = [
    "FEATURE_DIM",
    "Downstream",
    "FeatureNetwork",
    "FeatureSpace",
    "InceptionFeatures",
    "accuracy",
    "cached_feature_network",
    "frechet",
    "kernel_distance",
    "precision_recall",
    "train_feature_network",
]
