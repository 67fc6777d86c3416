"""The server's spool: an honest upload is kept as it came; everything else is refused and not kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.errors import FedpdiffError, MessageError, PrivacyError
from fedpdiff.federation import spool as module
from fedpdiff.federation.agreement import Agreement
from fedpdiff.federation.protocol import ReleaseManifest, ShardManifest
from fedpdiff.federation.spool import Spool, check_manifest, rows_per_shard, shard_digest
from fedpdiff.privacy.gaussian_noise import SeededNoise
from fedpdiff.privacy.mechanism import release_integers
from fedpdiff.privacy.wire import encode
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

Certified = Callable[[np.ndarray, np.ndarray], str]
HASH = "0123456789abcdef" * 4
NAMES = tuple("0123456789")
ROWS = 16


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide an upload of 40 images into three shards."""
    monkeypatch.setattr(module, "SHARD_BYTES", ROWS * 64)


@pytest.fixture
def integers(agreement: Agreement, images: LabelledImages) -> np.ndarray:
    return release_of(agreement, images)


@pytest.fixture
def manifest(
    agreement: Agreement, images: LabelledImages, integers: np.ndarray, certified: Certified
) -> ReleaseManifest:
    return ReleaseManifest(
        **agreement.mechanism.model_dump(),
        fingerprint=HASH,
        site="client-1",
        number=1,
        class_counts=images.counts(10),
        rows_per_shard=ROWS,
        shards=3,
        certificate=certified(integers, images.labels.numpy()),
    )


@pytest.fixture
def spool(manifest: ReleaseManifest, tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "client-1", manifest)
    spool.create()
    return spool


def release_of(agreement: Agreement, images: LabelledImages, alpha_bar: float | None = None) -> np.ndarray:
    """Return the honest release, or one with the noise of another ``alpha_bar``."""
    mechanism = agreement.mechanism
    return release_integers(
        images.pixels().numpy(),
        agreement.centre,
        mechanism.clip,
        alpha_bar or mechanism.alpha_bar,
        SeededNoise(1),
    )


def codes_of(integers: np.ndarray) -> np.ndarray:
    """Return a release as codes per image."""
    return encode(integers, 8).reshape(len(integers), -1)


def shard_of(
    codes: np.ndarray, labels: np.ndarray, number: int, **changes: Any
) -> tuple[ShardManifest, dict[str, np.ndarray]]:
    rows = slice(number * ROWS, (number + 1) * ROWS)
    arrays = {"codes": codes[rows].reshape(-1), "labels": np.ascontiguousarray(labels[rows])}
    fields = {
        "site": "client-1",
        "shard": number,
        "rows": len(arrays["labels"]),
        "sha256": shard_digest(arrays["codes"], arrays["labels"]),
    }
    return ShardManifest.model_validate(fields | changes), arrays


@pytest.fixture
def codes(integers: np.ndarray) -> np.ndarray:
    return codes_of(integers)


def test_an_honest_upload_is_kept_as_it_came(
    spool: Spool, codes: np.ndarray, images: LabelledImages, tmp_path: Path
) -> None:
    labels = images.labels.numpy()
    for number in (2, 0, 1):
        spool.accept(*shard_of(codes, labels, number))
    assert not spool.complete
    spool.finish()
    assert spool.complete
    assert spool.bytes == codes.nbytes + labels.nbytes
    for kept in (spool, Spool.open(tmp_path / "client-1")):
        values, kept_labels = kept.read()
        assert values.shape == (40, 1, 8, 8)
        assert (kept_labels == images.labels).all()
        assert (encode(np.round(values.numpy() * 4096).astype(np.int16), 8) == codes.reshape(-1)).all()
    spool.discard()
    assert not (tmp_path / "client-1").exists()


def test_many_read_at_once(spool: Spool, codes: np.ndarray, images: LabelledImages) -> None:
    for number in range(3):
        spool.accept(*shard_of(codes, images.labels.numpy(), number))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda _: Spool.open(spool.folder).read()[0].sum().item(), range(64)))
    assert len(set(read)) == 1


def test_a_new_attempt_starts_empty(spool: Spool, codes: np.ndarray, images: LabelledImages) -> None:
    spool.accept(*shard_of(codes, images.labels.numpy(), 0))
    again = Spool(spool.folder, spool.manifest)
    again.create()
    assert sorted(path.name for path in spool.folder.iterdir()) == ["certificate.json", "manifest.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("labels"), "must hold codes and labels"),
        (lambda a: a.update(images=a["codes"]), "must hold codes and labels"),
        (lambda a: a.update(codes=a["codes"].astype(np.float32)), "codes are float32"),
        (lambda a: a.update(codes=a["codes"][:-1]), "codes are uint8 of shape"),
        (lambda a: a.update(codes=a["codes"].reshape(ROWS, 64)), "codes are uint8 of shape"),
        (lambda a: a.update(labels=a["labels"].astype(np.uint8)), "labels must be int64"),
        (lambda a: a.update(labels=a["labels"][:-1]), "labels must be int64"),
        (lambda a: a.update(labels=a["labels"] + 9), "labels must be int64"),
        (lambda a: a.update(labels=a["labels"] - 1), "labels must be int64"),
        (lambda a: a.update(labels=a["labels"][::-1].copy()), "SHA-256"),
        (lambda a: a.update(codes=a["codes"][::-1].copy()), "SHA-256"),
    ],
)
def test_wrong_arrays_are_refused(
    change: Any, message: str, spool: Spool, codes: np.ndarray, images: LabelledImages
) -> None:
    shard, arrays = shard_of(codes, images.labels.numpy(), 0)
    change(arrays)
    with pytest.raises(MessageError, match=message):
        spool.accept(shard, arrays)
    assert not list(spool.folder.glob("shard*"))
    assert spool.bytes == 0


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"site": "client-2"}),
        (0, {"rows": ROWS - 1}),
        (0, {"sha256": HASH}),
        (0, {"shard": 2}),
        (0, {"shard": 3}),
        (0, {"shard": 10**12}),
        (2, {"shard": 0}),
    ],
)
def test_wrong_shard_manifests_are_refused(
    number: int, change: dict[str, Any], spool: Spool, codes: np.ndarray, images: LabelledImages
) -> None:
    with pytest.raises(MessageError):
        spool.accept(*shard_of(codes, images.labels.numpy(), number, **change))
    assert not list(spool.folder.glob("shard*"))


@pytest.mark.parametrize("t0", [100, 250])
def test_too_little_noise_is_refused(
    t0: int, spool: Spool, agreement: Agreement, images: LabelledImages
) -> None:
    weak = codes_of(release_of(agreement, images, float(NoiseSchedule("linear", 1000).alpha_bar[t0])))
    with pytest.raises(PrivacyError, match="less noise"):
        spool.accept(*shard_of(weak, images.labels.numpy(), 0))
    assert not list(spool.folder.glob("shard*"))


def test_the_same_noisy_image_twice_is_refused(
    spool: Spool, codes: np.ndarray, images: LabelledImages
) -> None:
    codes[1] = codes[0]
    with pytest.raises(PrivacyError, match="twice"):
        spool.accept(*shard_of(codes, images.labels.numpy(), 0))


def test_noise_shared_between_shards_is_refused(
    manifest: ReleaseManifest,
    integers: np.ndarray,
    images: LabelledImages,
    certified: Certified,
    tmp_path: Path,
) -> None:
    """Also when the certificate is about just these bytes."""
    integers[ROWS : 2 * ROWS] = integers[:ROWS]
    text = certified(integers, images.labels.numpy())
    spool = Spool(tmp_path / "twice", manifest.model_copy(update={"certificate": text}))
    spool.create()
    for number in range(3):
        spool.accept(*shard_of(codes_of(integers), images.labels.numpy(), number))
    with pytest.raises(PrivacyError, match="twice"):
        spool.finish()
    assert not spool.complete


def test_counts_must_agree_with_the_labels(spool: Spool, codes: np.ndarray, images: LabelledImages) -> None:
    labels = images.labels.numpy().copy()
    labels[0] = 5
    for number in range(3):
        spool.accept(*shard_of(codes, labels, number))
    with pytest.raises(MessageError, match="class_counts"):
        spool.finish()


def test_the_agreed_manifest_is_accepted(manifest: ReleaseManifest, agreement: Agreement) -> None:
    assert rows_per_shard(agreement.mechanism) == ROWS
    check_manifest(manifest, agreement.mechanism, NAMES, HASH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "f" * 64}, "other code"),
        ({"t0": 674}, "t0 = 674, but 675 was agreed"),
        ({"alpha_bar": 0.5}, "alpha_bar = 0.5"),
        ({"schedule": "cosine"}, "schedule = 'cosine'"),
        ({"diffusion_steps": 999}, "diffusion_steps = 999"),
        ({"clip": 11.0}, "clip = 11.0"),
        ({"delta": 1e-6}, "delta = 1e-06"),
        ({"noise": "seeded"}, "noise = 'seeded'"),
        ({"wire_bits": 4}, "wire_bits = 4"),
        ({"image_shape": [3, 8, 8]}, r"image_shape = \[3, 8, 8\]"),
        ({"class_counts": [40]}, "class_counts"),
        ({"class_counts": [0] * 10}, "class_counts"),
        ({"class_counts": [-4, 8, *[4] * 8]}, "class_counts"),
        ({"rows_per_shard": 17}, "rows"),
        ({"shards": 2}, "2 shards"),
        ({"shards": 10**9}, "shards"),
        ({"number": 2}, "number = 2"),
    ],
)
def test_a_manifest_that_differs_is_refused_by_field(
    change: dict[str, Any], message: str, manifest: ReleaseManifest, agreement: Agreement
) -> None:
    with pytest.raises(FedpdiffError, match=message):
        check_manifest(manifest.model_copy(update=change), agreement.mechanism, NAMES, HASH)
