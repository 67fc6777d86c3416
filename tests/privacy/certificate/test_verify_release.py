"""A release folder whose bytes, manifest or certificate were touched is found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.privacy.certificate_digests import wire_digests
from fedpdiff.privacy.verify import verify_release

Seal = Callable[[dict[str, Any]], dict[str, Any]]


def rewrite(path: Path, resealed: Seal | None = None, **changes: Any) -> None:
    stated = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(resealed(stated) if resealed else stated))


def test_what_a_client_made_passes(outbox: Path) -> None:
    assert verify_release(outbox) == []


@pytest.mark.parametrize("name", ["release.npy", "labels.npy"])
def test_every_flipped_byte_is_found(outbox: Path, name: str) -> None:
    """Everywhere: also in the padding of the header."""
    path = outbox / name
    content = path.read_bytes()
    for place in (*range(0, 130), *range(130, len(content), 37), len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        problems = verify_release(outbox)
        assert problems and name in problems[0], place
    path.write_bytes(content)
    assert verify_release(outbox) == []


@pytest.mark.parametrize("name", ["release.npy", "labels.npy", "manifest.json", "certificate.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer", "a folder"])
def test_missing_and_damaged_files_are_named(outbox: Path, name: str, damage: str) -> None:
    path = outbox / name
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[:-2], "longer": content + b"}"}[damage])
    problems = verify_release(outbox)
    assert problems
    assert name in problems[0] or (name == "certificate.json" and "the certificate is no JSON" in problems[0])


def test_swapped_rows_are_found(outbox: Path) -> None:
    integers = np.load(outbox / "release.npy")
    np.save(outbox / "release.npy", integers[::-1])
    assert "release.npy does not have the bytes" in verify_release(outbox)[0]


def test_another_release_under_the_same_certificate(outbox: Path, resealed: Seal) -> None:
    """Hashes made to fit, but not those of the wire."""
    integers = np.load(outbox / "release.npy") + np.int16(400)  # two steps of the finest wire
    np.save(outbox / "release.npy", integers)
    sha256 = hashlib.sha256(integers.tobytes()).hexdigest()
    for name, seal in (("certificate.json", resealed), ("manifest.json", None)):
        rewrite(outbox / name, seal, sha256=sha256)
    labels = np.load(outbox / "labels.npy")
    other = wire_digests(integers, labels) != json.loads((outbox / "certificate.json").read_text())["wire"]
    assert other and "wire: what this release sends" in verify_release(outbox)[0]


@pytest.mark.parametrize("width", ["8", "4", "2"])
def test_a_wrong_hash_of_the_wire(outbox: Path, resealed: Seal, width: str) -> None:
    wire = json.loads((outbox / "certificate.json").read_text())["wire"]
    rewrite(outbox / "certificate.json", resealed, wire=wire | {width: "0" * 64})
    assert "wire" in verify_release(outbox)[0]


def test_other_counts_than_the_labels(outbox: Path, resealed: Seal) -> None:
    counts = {"0": 5, "1": 3, "2": 4}
    for name, seal in (("certificate.json", resealed), ("manifest.json", None)):
        rewrite(outbox / name, seal, class_counts=counts)
    assert "other numbers of images per class" in verify_release(outbox)[0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"t0": 691}, "another t0"),
        ({"clip": 9.0}, "another clip"),
        ({"delta": 1e-6}, "another delta"),
        ({"centre_sha256": "0" * 64}, "another centre_sha256"),
        ({"preprocessing": "fit = pad"}, "another preprocessing"),
        ({"duplicates_dropped": 1}, "another duplicates_dropped"),
        ({"created": "2020-01-01T00:00:00+00:00"}, "another created"),
        ({"software": "other"}, "another software"),
        ({"privacy": {"epsilon": 1.0}}, "another privacy statement"),
        ({"privacy": None}, "another privacy statement"),
        ({"noise": "seeded"}, "simulated noise"),
        ({"stamp": "NOT PRIVATE"}, "simulated noise"),
    ],
)
def test_a_manifest_that_says_otherwise(outbox: Path, changes: dict[str, Any], problem: str) -> None:
    rewrite(outbox / "manifest.json", None, **changes)
    assert any(problem in found for found in verify_release(outbox))
