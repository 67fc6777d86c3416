from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedpdiff.privacy.gaussian_noise import NoiseSource, SecureNoise
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import Release, ReleaseRequest, ReleaseStore
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages


def level(t0: int, schedule: str = "linear", steps: int = 1000) -> dict[str, Any]:
    """Return the settings of a request that say how much noise there is."""
    alpha_bar = float(NoiseSchedule(schedule, steps).alpha_bar[t0])
    return {"t0": t0, "alpha_bar": alpha_bar, "schedule": schedule, "diffusion_steps": steps}


REQUEST = ReleaseRequest(
    **level(690), clip=3.0, centre=np.zeros((1, 4, 4), np.float32), delta=1e-5, noise="secure"
)


def make_private(
    numbers: Sequence[int], labels: Sequence[int] | None = None, persons: Sequence[str] | None = None
) -> PrivateImages:
    """Return the images with these numbers: the same number is the same image, of class number % 3."""
    pixels = [
        torch.randint(0, 256, (1, 4, 4), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
        for n in numbers
    ]
    images = torch.stack(pixels) if pixels else torch.zeros(0, 1, 4, 4, dtype=torch.uint8)
    classes = torch.tensor([n % 3 for n in numbers] if labels is None else list(labels), dtype=torch.int64)
    digests = [hashlib.sha256(b"image %d" % n).digest() for n in numbers]
    return PrivateImages(LabelledImages(images, classes), digests, persons)


class Site:
    """A release store in a folder of its own, and what lies in it."""

    def __init__(self, root: Path, **policy: Any) -> None:
        self.root = root
        self.witness: Path | None = None
        self.policy = Policy.parse(
            {"epsilon": 1000.0, "delta": 1e-5, "schedules": ["linear", "cosine"]} | policy
        )

    @property
    def store(self) -> ReleaseStore:
        """A store as a new process opens it."""
        return ReleaseStore(self.root, self.policy, self.witness)

    def release(self, private: PrivateImages, source: NoiseSource | None = None, **changes: Any) -> Release:
        request = dataclasses.replace(REQUEST, **changes)
        return self.store.get_or_make(request, private, source or SecureNoise())

    def rows(self) -> dict[str, list[Any]]:
        """Return everything in the ledger."""
        with sqlite3.connect(f"{(self.root / 'ledger.sqlite').as_uri()}?mode=ro", uri=True) as ledger:
            tables = [name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type='table'")]
            return {table: ledger.execute(f"SELECT * FROM {table}").fetchall() for table in tables}

    def counts(self) -> dict[str, int]:
        """Return how many rows each table of the ledger has."""
        return {table: len(rows) for table, rows in self.rows().items()}

    def outbox(self) -> dict[str, bytes]:
        """Return the outbox byte by byte."""
        return {path.name: path.read_bytes() for path in sorted((self.root / "outbox").iterdir())}


class NoNoise:
    """Secure by name; whoever reads from it would noise once more."""

    kind, private = "secure", True

    def read(self, count: int) -> bytes:
        raise AssertionError("a noising was begun")


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Site]:
    """Return ``site("name", epsilon=10.0)``: a site with this policy; the name says which folder."""
    return lambda name="site", **policy: Site(tmp_path / name, **policy)


@pytest.fixture
def private() -> Callable[..., PrivateImages]:
    return make_private


@pytest.fixture
def no_noise() -> NoNoise:
    return NoNoise()


@pytest.fixture
def request_settings() -> ReleaseRequest:
    return REQUEST


@pytest.fixture(name="level")
def level_fixture() -> Callable[..., dict[str, Any]]:
    """Return ``level(690, "linear", 1000)``: the settings that decide how much noise there is."""
    return level
