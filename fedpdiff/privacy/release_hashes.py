"""The hashes of a release, taken once, when it is committed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpdiff.privacy.certificate_digests import wire_digests

_IMAGES_AT_A_TIME = 256


@dataclass(frozen=True)
class Hashes:
    """SHA-256 of a release's arrays, and of what each width of the wire sends."""

    sha256: str
    labels_sha256: str
    wire: dict[str, str]


def hash_rows(integers: Iterable[bytes], labels: NDArray[np.int64]) -> Hashes:
    """Return the hashes of a release, its images taken one at a time in the order of its rows."""
    sha256 = hashlib.sha256()

    def parts() -> Iterator[NDArray[np.int16]]:
        images = iter(integers)
        while part := b"".join(itertools.islice(images, _IMAGES_AT_A_TIME)):
            sha256.update(part)
            yield np.frombuffer(part, "<i2")

    wire = wire_digests(parts(), labels)
    return Hashes(sha256.hexdigest(), hashlib.sha256(labels.tobytes()).hexdigest(), wire)
