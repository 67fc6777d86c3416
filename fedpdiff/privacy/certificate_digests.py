"""The hashes that tie a certificate to its schedule, to what is sent, and to itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpdiff.privacy.wire import WIRE_BITS, codes
from fedpdiff.schedule import NoiseSchedule


def schedule_digest(name: str, steps: int) -> str:
    """Return the SHA-256 of abar_0 .. abar_T as little-endian float32.

    Single precision, because the last bits of double precision differ between machines.
    """
    alpha_bar = NoiseSchedule(name, steps).alpha_bar
    return hashlib.sha256(alpha_bar.astype("<f4").tobytes()).hexdigest()


def wire_digests(integers: Iterable[NDArray[np.int16]], labels: NDArray[np.int64]) -> dict[str, str]:
    """Return, for each width of the wire, the SHA-256 of what is sent, however it is divided into shards.

    Parameters
    ----------
    integers
        The release in the order of its rows: an array (N, C, H, W), or parts of it one after the other.
    labels
        int64, shape (N,), in the same order.

    Returns
    -------
    dict
        ``"8"``, ``"4"`` and ``"2"``: hash of one byte per value (its code, unpacked), then the labels.
    """
    digests = {bits: hashlib.sha256() for bits in WIRE_BITS}
    for part in integers:
        for bits, digest in digests.items():
            digest.update(codes(np.asarray(part), bits).tobytes())
    for digest in digests.values():
        digest.update(labels.astype("<i8").tobytes())
    return {str(bits): digest.hexdigest() for bits, digest in digests.items()}


def upload_digest(unpacked: Iterable[NDArray[np.uint8]], labels: NDArray[np.int64]) -> str:
    """Return the same hash for one width, from the codes that arrived, one byte per value, in their order."""
    digest = hashlib.sha256()
    for part in unpacked:
        digest.update(part.tobytes())
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def checksum(certificate: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything else in a certificate: it finds damage, but is no signature."""
    rest = {key: value for key, value in certificate.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
