"""What is written to a ledger and read from it."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Batch:
    """One noising of several images, about to be committed.

    Parameters
    ----------
    mu
        Spent by it, on each image.
    coordinator
        Who says to have asked.
    software
        Name and version.
    health
        The report of the health check, as JSON.
    integers
        int16, shape (N, C, H, W); None when the check failed: it was drawn, so it is charged, but never sent.
    positions
        N integers from 0 to below 2^63, which put the rows of releases in random order.
    """

    mu: float
    coordinator: str
    software: str
    health: str
    integers: NDArray[np.int16] | None
    positions: Sequence[int]

    def kept(self, count: int) -> Iterator[tuple[int | None, bytes | None, bytes | None]]:
        """Yield position, hash and integers of each image, one in memory at a time."""
        if self.integers is None:
            yield from ((None, None, None) for _ in range(count))
            return
        for position, image in zip(self.positions, self.integers, strict=True):
            integers = image.tobytes()
            yield position, hashlib.sha256(integers).digest(), integers


@dataclass(frozen=True)
class Contents:
    """What tells one release of a site from another.

    Parameters
    ----------
    settings
        What its noisings depend on, as JSON.
    delta
        At which epsilon is stated.
    members
        Hash of the keys and labels of its images.
    duplicates
        How many exact duplicates were left out.
    """

    settings: str
    delta: float
    members: bytes
    duplicates: int


@dataclass(frozen=True)
class StoredRelease:
    """A release as the ledger knows it; its rows are ``Ledger.integers`` and ``Ledger.labels``.

    ``settings`` and ``wire`` (a hash for each width) are JSON.
    """

    id: int
    settings: str
    delta: float
    duplicates: int
    sha256: str
    labels_sha256: str
    wire: str
    time: str
    software: str


def now() -> str:
    """Return the time to the second, as ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
