"""What is sent of a release: its description and its shards, the same whoever holds the release."""

from __future__ import annotations

import numpy as np

from fedpdiff.config import RunConfig
from fedpdiff.errors import MessageError
from fedpdiff.federation.agreement import Agreement
from fedpdiff.federation.certificates import certificate_text
from fedpdiff.federation.protocol import Mechanism, ReleaseInstruction, ReleaseManifest, ShardManifest
from fedpdiff.federation.spool import rows_per_shard, shard_digest
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.privacy.outbox import Release
from fedpdiff.privacy.wire import encode

Arrays = dict[str, np.ndarray]


def asked(instruction: ReleaseInstruction, arrays: Arrays) -> Agreement:
    """Return the mechanism and the centre that a server asks for; nothing of it is checked against settings.

    Raises
    ------
    MessageError
        When the centre does not come with the request.
    """
    if set(arrays) != {"centre"} or arrays["centre"].dtype != np.float32:
        raise MessageError(
            "the request for a release must carry the public centre, float32, and nothing else"
        )
    mechanism = Mechanism(**{key: getattr(instruction, key) for key in Mechanism.model_fields})
    return Agreement(mechanism, arrays["centre"])


def differences(release: Release, agreement: Agreement, config: RunConfig) -> list[str]:
    """Return in which settings a release is not the agreed one, as ``"t0 is 700, not 690"``."""
    wanted = agreement.request(config).settings()
    found = release.manifest
    return [
        f"{key} is {found.get(key)!r}, not {value!r}"
        for key, value in wanted.items()
        if found.get(key) != value
    ]


def describe_release(
    release: Release, mechanism: Mechanism, site: str, number: int | None, classes: int
) -> ReleaseManifest:
    """Describe a release for the server.

    Parameters
    ----------
    release, mechanism
        The release and how it was agreed on.
    site, number
        Name, and partition number of a simulated client.
    classes
        Number of classes of the run.
    """
    rows = rows_per_shard(mechanism)
    return ReleaseManifest(
        **mechanism.model_dump(),
        fingerprint=code_fingerprint(),
        site=site,
        number=number,
        class_counts=np.bincount(release.labels, minlength=classes).tolist(),
        rows_per_shard=rows,
        shards=-(-len(release.labels) // rows),
        certificate=certificate_text(release.certificate),
    )


def cut_shard(release: Release, mechanism: Mechanism, site: str, number: int) -> tuple[ShardManifest, Arrays]:
    """Return one shard of a release, coded for the wire.

    Raises
    ------
    MessageError
        When there is no such shard.
    """
    size = rows_per_shard(mechanism)
    rows = slice(number * size, (number + 1) * size)
    labels = np.ascontiguousarray(release.labels[rows], dtype=np.int64)
    if not len(labels):
        raise MessageError(f"shard {number} was asked for, but the release has fewer")
    codes = encode(np.asarray(release.integers[rows]), mechanism.wire_bits)
    manifest = ShardManifest(site=site, shard=number, rows=len(labels), sha256=shard_digest(codes, labels))
    return manifest, {"codes": codes, "labels": labels}


def with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    """Return the arrays whose names begin with ``prefix``, under the rest of their names."""
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
