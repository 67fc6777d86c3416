from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedpdiff.privacy.certificate import make_certificate
from fedpdiff.privacy.certificate_digests import checksum
from fedpdiff.privacy.certificate_facts import ReleaseFacts
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import ReleaseRequest, ReleaseStore
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

REQUEST = ReleaseRequest(
    t0=690,
    alpha_bar=float(NoiseSchedule("linear", 1000).alpha_bar[690]),
    clip=10.0,
    centre=np.zeros((1, 5, 5), np.float32),
    schedule="linear",
    diffusion_steps=1000,
    delta=1e-5,
    noise="secure",
    preprocessing="fit = resize",
)


@pytest.fixture
def request_690() -> ReleaseRequest:
    """Return the paper's setting."""
    return REQUEST


@pytest.fixture
def facts(facts_of: Callable[..., ReleaseFacts]) -> Callable[..., ReleaseFacts]:
    """Return ``facts(ledger=None)``: those of an honest release of 12 images, with these changes."""
    integers = np.random.default_rng(1).normal(0, 4080, (12, 1, 5, 5)).astype(np.int16)
    return lambda **changes: facts_of(REQUEST, integers, np.arange(12) % 3, **changes)


@pytest.fixture
def certificate(facts: Callable[..., ReleaseFacts]) -> dict[str, Any]:
    """Return an honest certificate, as it is read from its file."""
    return json.loads(json.dumps(make_certificate(facts())))


@pytest.fixture
def resealed() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that makes the checksum fit again, as whoever forges a certificate would."""
    return lambda certificate: certificate | {"checksum": checksum(certificate)}


@pytest.fixture(scope="session")
def _released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Release 12 images through the code that a client runs, and return the outbox."""
    root = tmp_path_factory.mktemp("store")
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (12, 1, 5, 5), generator=generator, dtype=torch.uint8)
    digests = [hashlib.sha256(bytes([row])).digest() for row in range(12)]
    private = PrivateImages(LabelledImages(pixels, torch.arange(12) % 3), digests)
    store = ReleaseStore(root, Policy.simulation(10.0, 1e-5))
    store.get_or_make(REQUEST, private, SecureNoise())
    return {path.name: path.read_bytes() for path in (root / "outbox").iterdir()}


@pytest.fixture
def outbox(_released: dict[str, bytes], tmp_path: Path) -> Path:
    """Return a folder of its own with an honest release, made by the release store."""
    folder = tmp_path / "site" / "outbox"
    folder.mkdir(parents=True)
    for name, content in _released.items():
        (folder / name).write_bytes(content)
    return folder
