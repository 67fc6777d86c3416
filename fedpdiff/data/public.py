"""Images that no client owns (public, test), and, in simulation only, those of all clients together."""

from __future__ import annotations

from fedpdiff.config import RunConfig
from fedpdiff.data.images import to_labelled_images
from fedpdiff.data.source import load_source
from fedpdiff.data.splits import split_source
from fedpdiff.types import LabelledImages, concatenate


def load_public(config: RunConfig) -> LabelledImages:
    """Return the public images, for the centre and the clip norm; none when ``public-fraction`` is 0."""
    return to_labelled_images(split_source(load_source(config), config).public, config)


def load_test(config: RunConfig) -> LabelledImages:
    """Return the test images of ``data``, in no client's and no public part."""
    return to_labelled_images(split_source(load_source(config), config).test, config)


def load_all_private(config: RunConfig) -> LabelledImages:
    """Return the training images of all simulated clients, client 0's first.

    Only a simulation can: it is for the centralised upper bound and the metrics' feature network.
    """
    from fedpdiff.data.partition import divide  # heavy, and real sites' data are not divided

    private = split_source(load_source(config), config).private
    return concatenate(to_labelled_images(part, config) for part in divide(private, config))
