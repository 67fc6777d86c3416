"""Shards that an earlier attempt accepted: kept for the very same release, and for no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.federation import spool as module
from fedpdiff.federation.agreement import Agreement
from fedpdiff.federation.protocol import ReleaseManifest, ShardManifest
from fedpdiff.federation.spool import Spool, shard_digest
from fedpdiff.types import LabelledImages

ROWS = 16


@pytest.fixture
def manifest(agreement: Agreement, images: LabelledImages, monkeypatch: Any) -> ReleaseManifest:
    """An upload of 40 images in three shards, of seeded noise: without a certificate."""
    monkeypatch.setattr(module, "SHARD_BYTES", ROWS * 64)
    monkeypatch.setattr(Spool, "_check_noise", lambda *_: None)
    stated = agreement.mechanism.model_dump() | {"noise": "seeded"}
    counts = images.counts(10)
    fields = {"fingerprint": "0" * 64, "site": "a", "class_counts": counts, "rows_per_shard": ROWS}
    return ReleaseManifest.model_validate(stated | fields | {"shards": 3, "certificate": ""})


def accept(spool: Spool, images: LabelledImages, number: int) -> None:
    labels = np.ascontiguousarray(images.labels.numpy()[number * ROWS : (number + 1) * ROWS])
    codes = np.full(len(labels) * 64, number, np.uint8)
    digest = shard_digest(codes, labels)
    shard = ShardManifest(site="a", shard=number, rows=len(labels), sha256=digest)
    spool.accept(shard, {"codes": codes, "labels": labels})


@pytest.fixture
def earlier(manifest: ReleaseManifest, images: LabelledImages, tmp_path: Path) -> Spool:
    """What an attempt left that had accepted the first and the last of three shards."""
    spool = Spool(tmp_path / "a", manifest)
    spool.resume()
    assert (spool.kept, spool.bytes, spool.missing()) == (0, 0, [0, 1, 2])
    accept(spool, images, 0)
    accept(spool, images, 2)
    return spool


def test_the_same_release_goes_on(earlier: Spool, images: LabelledImages) -> None:
    again = Spool(earlier.folder, earlier.manifest)
    again.resume()
    assert (again.kept, again.arrived, again.bytes, again.missing()) == (2, 2, earlier.bytes, [1])
    accept(again, images, 1)
    assert (again.kept, again.arrived) == (2, 3)
    again.finish()
    assert again.complete
    assert again.bytes == 40 * (64 + 8)


def test_a_newer_version_of_the_code_goes_on(earlier: Spool) -> None:
    newer = earlier.manifest.model_copy(update={"fingerprint": "1" * 64})
    again = Spool(earlier.folder, newer)
    again.resume()
    assert again.missing() == [1]
    assert Spool.open(earlier.folder).manifest == newer


@pytest.mark.parametrize(
    "change", [{"certificate": "{}"}, {"t0": 1}, {"clip": 1.0}, {"noise": "secure"}, {"wire_bits": 4}]
)
def test_another_release_starts_anew(change: dict[str, Any], earlier: Spool) -> None:
    other = Spool(earlier.folder, earlier.manifest.model_copy(update=change))
    other.resume()
    assert (other.kept, other.bytes, other.missing()) == (0, 0, [0, 1, 2])
    assert list(earlier.folder.glob("shard-*")) == []


def test_what_is_half_written_is_not_kept(earlier: Spool) -> None:
    (earlier.folder / "shard-0001.tmp").write_bytes(b"half")
    again = Spool(earlier.folder, earlier.manifest)
    again.resume()
    assert again.missing() == [1]
    (earlier.folder / "manifest.json").write_text("{")
    again.resume()
    assert again.missing() == [0, 1, 2]
