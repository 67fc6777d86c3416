"""Outboxes of any size for measuring transfer: fast noise from a seed, and no image. NOT PRIVATE.

What a sealed site would send of grey images is normal noise, so that arrival checks and codes are those of a
real release. The noise is numpy's and the certificate states a ledger and a self-test that do not exist: the
files serve a run on this machine and are deleted after it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedpdiff.federation.run_request import RunRequest
from fedpdiff.privacy.certificate import make_certificate
from fedpdiff.privacy.certificate_digests import wire_digests
from fedpdiff.privacy.certificate_facts import LedgerFacts, PolicyCeilings, ReleaseFacts, SelfTest
from fedpdiff.privacy.ledger_entries import StoredRelease
from fedpdiff.privacy.manifest import make_manifest
from fedpdiff.privacy.mechanism import noise_sigma
from fedpdiff.privacy.request import ReleaseRequest
from fedpdiff.privacy.verify import class_counts

SOFTWARE = "fedpdiff benchmark"
_LARGEST = 32767
_IMAGES_AT_A_TIME = 500


def fill(outbox: Path, request: RunRequest, images: int, seed: int) -> None:
    """Write an outbox of ``images`` noisy images that answers a request.

    Parameters
    ----------
    outbox
        Made here.
    request
        Of the run.
    images
        How many.
    seed
        Of the noise; every site needs its own, since equal noise is refused.
    """
    outbox.mkdir(parents=True)
    asked = request.agreement.request(request.config)
    labels = np.arange(images, dtype=np.int64) % len(request.class_names)
    _write_noise(outbox / "release.npy", (images, *asked.centre.shape), asked.alpha_bar, seed)
    np.save(outbox / "labels.npy", labels)
    facts = _facts(asked, outbox / "release.npy", labels)
    release = StoredRelease(
        id=1,
        settings=json.dumps(asked.noising()),
        delta=asked.delta,
        duplicates=0,
        sha256=facts.sha256,
        labels_sha256=facts.labels_sha256,
        wire=json.dumps(dict(facts.wire)),
        time=facts.created,
        software=facts.software,
    )
    manifest = make_manifest(release, asked.noising(), labels)
    for name, value in (("manifest.json", manifest), ("certificate.json", make_certificate(facts))):
        (outbox / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    (outbox / "request.json").write_bytes(request.to_bytes())


def _write_noise(path: Path, shape: tuple[int, ...], alpha_bar: float, seed: int) -> None:
    generator, sigma = np.random.default_rng(seed), np.float32(noise_sigma(alpha_bar))
    with path.open("wb") as file:
        header = {"descr": "<i2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, shape[0], _IMAGES_AT_A_TIME):
            rows = min(_IMAGES_AT_A_TIME, shape[0] - start)
            noise = generator.standard_normal((rows, math.prod(shape[1:])), dtype=np.float32) * sigma
            file.write(np.clip(np.rint(noise), -_LARGEST, _LARGEST).astype("<i2").tobytes())


def _parts(path: Path) -> Iterator[np.ndarray]:
    count = len(np.load(path, mmap_mode="r"))
    for start in range(0, count, _IMAGES_AT_A_TIME):
        # Mapped anew each time: pages that were read would count as this process's memory.
        yield np.array(np.load(path, mmap_mode="r")[start : start + _IMAGES_AT_A_TIME])


def _facts(asked: ReleaseRequest, path: Path, labels: np.ndarray) -> ReleaseFacts:
    sha256 = hashlib.sha256()
    for part in _parts(path):
        sha256.update(part.tobytes())
    return ReleaseFacts(
        **asked.noising(),
        delta=asked.delta,
        class_counts=class_counts(labels),
        sha256=sha256.hexdigest(),
        labels_sha256=hashlib.sha256(labels.tobytes()).hexdigest(),
        wire=wire_digests(_parts(path), labels),
        ledger=LedgerFacts(1, asked.mu, 0),
        policy=PolicyCeilings(1e6, asked.delta),
        persons=None,
        self_test=SelfTest(True, ("none: made by a benchmark",), 0.0),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        software=SOFTWARE,
    )
