"""Certificates on arrival: the right one for what was agreed and sent, or the site's upload is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.errors import MessageError
from fedpdiff.federation.agreement import Agreement
from fedpdiff.federation.certificates import certificate_text, check_declared
from fedpdiff.federation.protocol import LONGEST_CERTIFICATE, ReleaseManifest, ShardManifest
from fedpdiff.federation.spool import Spool, rows_per_shard, shard_digest
from fedpdiff.federation.verification import verify_upload
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.certificate_digests import checksum
from fedpdiff.privacy.certificate_facts import LedgerFacts
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.mechanism import release_integers
from fedpdiff.privacy.request import ReleaseRequest
from fedpdiff.privacy.wire import encode
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

Certified = Callable[..., str]
HASH = "0123456789abcdef" * 4


@pytest.fixture
def integers(agreement: Agreement, images: LabelledImages) -> np.ndarray:
    mechanism = agreement.mechanism
    return release_integers(
        images.pixels().numpy(), agreement.centre, mechanism.clip, mechanism.alpha_bar, SecureNoise()
    )


@pytest.fixture
def labels(images: LabelledImages) -> np.ndarray:
    return images.labels.numpy()


@pytest.fixture
def manifest(
    agreement: Agreement, integers: np.ndarray, labels: np.ndarray, certified: Certified
) -> ReleaseManifest:
    return ReleaseManifest(
        **agreement.mechanism.model_dump(),
        fingerprint=HASH,
        site="clinic",
        class_counts=np.bincount(labels, minlength=10).tolist(),
        rows_per_shard=rows_per_shard(agreement.mechanism),
        shards=1,
        certificate=certified(integers, labels),
    )


def sent(spool: Spool, integers: np.ndarray, labels: np.ndarray) -> Spool:
    """Send everything in one shard."""
    codes = encode(integers, spool.manifest.wire_bits)
    shard = ShardManifest(
        site=spool.manifest.site, shard=0, rows=len(labels), sha256=shard_digest(codes, labels)
    )
    spool.accept(shard, {"codes": codes, "labels": labels})
    return spool


def spool_of(folder: Path, manifest: ReleaseManifest, **changes: Any) -> Spool:
    spool = Spool(folder, manifest.model_copy(update=changes))
    spool.create()
    return spool


def test_an_honest_certificate_is_accepted_and_kept(
    manifest: ReleaseManifest,
    release_request: ReleaseRequest,
    integers: np.ndarray,
    labels: np.ndarray,
    tmp_path: Path,
) -> None:
    check_declared(manifest, release_request.settings())
    sent(spool_of(tmp_path / "clinic", manifest), integers, labels).finish()
    assert (tmp_path / "clinic" / "certificate.json").read_text() == manifest.certificate
    assert "certificate" not in json.loads((tmp_path / "clinic" / "manifest.json").read_text())
    assert Spool.open(tmp_path / "clinic").manifest == manifest
    assert verify_upload(tmp_path / "clinic") == []


@pytest.mark.parametrize("bits", [4, 2])
def test_every_width_of_the_wire(
    bits: int, manifest: ReleaseManifest, integers: np.ndarray, labels: np.ndarray, tmp_path: Path
) -> None:
    spool = spool_of(tmp_path / "clinic", manifest, wire_bits=bits)
    sent(spool, integers, labels).finish()
    assert verify_upload(tmp_path / "clinic") == []


def _level(t0: int) -> dict[str, Any]:
    alpha_bar = float(NoiseSchedule("linear", 1000).alpha_bar[t0])
    return {"t0": t0, "alpha_bar": alpha_bar, "ledger": LedgerFacts(1, mu_of(alpha_bar, 10.0), 0)}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (_level(700), "t0"),
        ({"clip": 9.0, "ledger": LedgerFacts(1, mu_of(_level(675)["alpha_bar"], 9.0), 0)}, "clip"),
        ({"delta": 1e-6}, "delta"),
        ({"image_shape": [1, 4, 16]}, "image_shape"),
        ({"centre_sha256": HASH}, "centre_sha256"),
        ({"preprocessing": "fit = pad"}, "preprocessing"),
        ({"class_counts": {"0": 40}}, "class_counts"),
    ],
)
def test_the_certificate_of_another_release_is_refused(
    changes: dict[str, Any],
    key: str,
    manifest: ReleaseManifest,
    release_request: ReleaseRequest,
    integers: np.ndarray,
    labels: np.ndarray,
    certified: Certified,
) -> None:
    """Each is right in itself."""
    other = manifest.model_copy(update={"certificate": certified(integers, labels, **changes)})
    with pytest.raises(MessageError, match=f"clinic sends the certificate of another release: its {key} is"):
        check_declared(other, release_request.settings())


def forged(text: str, **changes: Any) -> str:
    certificate = json.loads(text) | changes
    return certificate_text(certificate | {"checksum": checksum(certificate)})


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (lambda text: "", "no JSON, or damaged"),
        (lambda text: "[]", "no JSON object"),
        (lambda text: text[:-5], "no JSON, or damaged"),
        (lambda text: "[" * LONGEST_CERTIFICATE, "no JSON, or damaged"),
        (
            lambda text: forged(text, epsilon=json.loads(text)["epsilon"] - 0.001),
            "false certificate: epsilon",
        ),
        (lambda text: forged(text, not_protected=[]), "false certificate: not_protected"),
        (lambda text: forged(text, praise="safe"), "praise is unknown"),
        (
            lambda text: text.replace('"software": "fedpdiff', '"software": "fatpdiff'),
            "checksum does not fit",
        ),
    ],
)
def test_false_certificates_are_refused(
    forge: Callable[[str], str], message: str, manifest: ReleaseManifest, release_request: ReleaseRequest
) -> None:
    false = manifest.model_copy(update={"certificate": forge(manifest.certificate)})
    with pytest.raises(MessageError, match=f"clinic.*{message}"):
        check_declared(false, release_request.settings())


def test_other_bytes_than_the_certificate_is_about(
    manifest: ReleaseManifest, integers: np.ndarray, labels: np.ndarray, tmp_path: Path
) -> None:
    """One code of one image differs; noise, counts and the shard's own hash are right."""
    other = integers.copy()
    other[3, 0, 2, 2] += 400
    spool = sent(spool_of(tmp_path / "clinic", manifest), other, labels)
    with pytest.raises(MessageError, match="clinic sent other bytes than its certificate is about"):
        spool.finish()
    assert not spool.complete
    assert verify_upload(tmp_path / "clinic") == ["clinic sent other bytes than its certificate is about"]


def test_labels_in_another_order(
    manifest: ReleaseManifest, integers: np.ndarray, labels: np.ndarray, tmp_path: Path
) -> None:
    spool = sent(spool_of(tmp_path / "clinic", manifest), integers, np.ascontiguousarray(labels[::-1]))
    with pytest.raises(MessageError, match="other bytes"):
        spool.finish()


def test_seeded_noise_has_none(
    manifest: ReleaseManifest,
    release_request: ReleaseRequest,
    integers: np.ndarray,
    labels: np.ndarray,
    tmp_path: Path,
) -> None:
    with pytest.raises(MessageError, match="a certificate for seeded noise"):
        check_declared(manifest.model_copy(update={"noise": "seeded"}), release_request.settings())
    seeded = {"noise": "seeded", "certificate": ""}
    check_declared(manifest.model_copy(update=seeded), release_request.settings())
    sent(spool_of(tmp_path / "clinic", manifest, **seeded), integers, labels).finish()
    assert not (tmp_path / "clinic" / "certificate.json").exists()
    assert Spool.open(tmp_path / "clinic").manifest.certificate == ""
