"""Images that no client owns (public, test), and, in simulation only, those of all clients together."""

from __future__ import annotations

import torch

from fedpdiff.config import RunConfig
from fedpdiff.types import LabelledImages, concatenate

# What reads images is imported where it is used: it is heavy, and a coordinator without public images, such
# as one whose sites share nothing else, reads none.


def load_public(config: RunConfig) -> LabelledImages:
    """Return the public images, for the centre and the clip norm; none when ``public-fraction`` is 0."""
    if not config.public_fraction:
        nothing = torch.empty((0, *config.image_shape), dtype=torch.uint8)
        return LabelledImages(nothing, torch.empty(0, dtype=torch.int64))
    from fedpdiff.data.images import to_labelled_images
    from fedpdiff.data.source import load_source
    from fedpdiff.data.splits import split_source

    return to_labelled_images(split_source(load_source(config), config).public, config)


def load_test(config: RunConfig) -> LabelledImages:
    """Return the test images of ``data``, in no client's and no public part."""
    from fedpdiff.data.images import to_labelled_images
    from fedpdiff.data.source import load_source
    from fedpdiff.data.splits import split_source

    return to_labelled_images(split_source(load_source(config), config).test, config)


def load_all_private(config: RunConfig) -> LabelledImages:
    """Return the training images of all simulated clients, client 0's first.

    Only a simulation can: it is for the centralised upper bound and the metrics' feature network.
    """
    from fedpdiff.data.images import to_labelled_images
    from fedpdiff.data.partition import divide
    from fedpdiff.data.source import load_source
    from fedpdiff.data.splits import split_source

    private = split_source(load_source(config), config).private
    return concatenate(to_labelled_images(part, config) for part in divide(private, config))
