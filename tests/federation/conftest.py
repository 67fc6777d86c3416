from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedpdiff.config import RunConfig
from fedpdiff.federation.agreement import Agreement, propose
from fedpdiff.federation.certificates import certificate_text
from fedpdiff.federation.protocol import Mechanism
from fedpdiff.privacy.certificate import make_certificate
from fedpdiff.privacy.certificate_facts import ReleaseFacts
from fedpdiff.privacy.request import ReleaseRequest
from fedpdiff.types import LabelledImages


@pytest.fixture
def run_config() -> Callable[..., RunConfig]:
    """Return ``run_config(epsilon=1.0)``: epsilon 10 and C = 10 around mid-grey, with these changes."""

    def make(**changes: Any) -> RunConfig:
        settings = {"epsilon": 10.0, "clip_rule": "fixed", "clip": 10.0, "centre": "none", **changes}
        return RunConfig.parse({key.replace("_", "-"): value for key, value in settings.items()})

    return make


@pytest.fixture
def images() -> LabelledImages:
    """Return 40 images of 10 classes."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return LabelledImages(pixels, torch.arange(40) % 10)


@pytest.fixture
def agreement(run_config: Callable[..., RunConfig], images: LabelledImages) -> Agreement:
    """Return what a server proposes for the default settings of :func:`run_config`."""
    return propose(run_config(), images.select(torch.arange(0)))


@pytest.fixture
def no_images() -> LabelledImages:
    return LabelledImages(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))


@pytest.fixture
def zeros() -> np.ndarray:
    return np.zeros((1, 8, 8), np.float32)


@pytest.fixture
def release_request(agreement: Agreement, run_config: Callable[..., RunConfig]) -> ReleaseRequest:
    """Return the request that follows from the agreement."""
    return agreement.request(run_config())


@pytest.fixture
def certified(release_request: ReleaseRequest, facts_of: Callable[..., ReleaseFacts]) -> Callable[..., str]:
    """Return ``certified(integers, labels, clip=9.0)``: a certificate as it travels."""

    def make(integers: np.ndarray, labels: np.ndarray, **changes: Any) -> str:
        return certificate_text(make_certificate(facts_of(release_request, integers, labels, **changes)))

    return make


@pytest.fixture
def agreed(run_config: Callable[..., RunConfig], no_images: LabelledImages) -> Callable[..., Mechanism]:
    """Return ``agreed(bits, image_shape)``."""

    def make(bits: int, shape: list[int]) -> Mechanism:
        mechanism = propose(run_config(release_noise="seeded", wire_bits=bits), no_images).mechanism
        return mechanism.model_copy(update={"image_shape": shape})

    return make
