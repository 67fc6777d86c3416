"""No site may declare more than its share of the server's free disk; nothing is written for one that does."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from fedpdiff.config import RunConfig
from fedpdiff.errors import MessageError
from fedpdiff.federation.agreement import Agreement
from fedpdiff.federation.disk_share import check_disk_share, upload_bytes
from fedpdiff.federation.protocol import ReleaseManifest

Usage = namedtuple("Usage", "total used free")
IMAGES = 1000
SIZE = IMAGES * (64 + 8)  # 8x8 grey images at 8 bits, and labels of 8 bytes


@pytest.fixture
def manifest(agreement: Agreement) -> ReleaseManifest:
    return ReleaseManifest(
        **agreement.mechanism.model_dump(),
        fingerprint="0" * 64,
        site="clinic",
        class_counts=[IMAGES, *[0] * 9],
        rows_per_shard=IMAGES,
        shards=1,
        certificate="",
    )


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return ``free(bytes)``: so much is free from now on."""
    return lambda size: monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, size))


def test_the_declared_size_is_what_will_be_written(manifest: ReleaseManifest) -> None:
    assert upload_bytes(manifest) == SIZE
    assert upload_bytes(manifest.model_copy(update={"wire_bits": 2})) == IMAGES * (16 + 8)


@pytest.mark.parametrize("sites", [1, 3])
def test_a_site_may_take_its_share_and_no_byte_more(
    sites: int, manifest: ReleaseManifest, free: Callable[[int], None], tmp_path: Path
) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    free(2 * sites * SIZE)
    check_disk_share(manifest, folder, sites)
    free(2 * sites * SIZE - 1)
    with pytest.raises(MessageError, match=r"clinic declares .* of 0\.072 MB, but its share .* is 0\.072 MB"):
        check_disk_share(manifest, folder, sites)
    assert not (tmp_path / "not").exists()


def test_what_an_earlier_attempt_left_is_not_counted_twice(
    manifest: ReleaseManifest, free: Callable[[int], None], tmp_path: Path
) -> None:
    free(2 * SIZE - 100)
    (tmp_path / "shard-0000.npy").write_bytes(bytes(100))
    check_disk_share(manifest, tmp_path, 1)


def test_any_size_can_be_declared_and_is_refused(
    manifest: ReleaseManifest, run_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """On the disk as it is: 2^62 images fit on none."""
    huge = manifest.model_copy(update={"class_counts": [2**62, *[0] * 9]})
    with pytest.raises(MessageError, match=r"declares an upload of .* GB, but its share"):
        check_disk_share(huge, tmp_path, 1)
