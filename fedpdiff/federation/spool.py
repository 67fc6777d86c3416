"""The server's spool: shards are checked on arrival and kept on disk until all of a site's are there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedpdiff.errors import MessageError
from fedpdiff.federation.certificates import check_received
from fedpdiff.federation.protocol import Mechanism, ReleaseManifest, ShardManifest
from fedpdiff.federation.shard_files import Codes, ShardFile
from fedpdiff.privacy.arrival import NoiseCheck
from fedpdiff.privacy.certificate_digests import upload_digest
from fedpdiff.privacy.wire import encoded_size
from fedpdiff.runfolder import write_json, write_text

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 16 * 2**20  # a message: each starts a process at the site, and is in memory as a whole
MANIFEST, CERTIFICATE = "manifest.json", "certificate.json"


def rows_per_shard(mechanism: Mechanism) -> int:
    """Return how many images make one shard of at most 16 MiB."""
    return max(1, SHARD_BYTES // encoded_size(int(np.prod(mechanism.image_shape)), mechanism.wire_bits))


def shard_digest(codes: np.ndarray, labels: np.ndarray) -> str:
    """Return the SHA-256 (hex) of a shard's bytes."""
    digest = hashlib.sha256(np.ascontiguousarray(codes).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()


def check_manifest(
    manifest: ReleaseManifest, mechanism: Mechanism, class_names: tuple[str, ...], fingerprint: str
) -> None:
    """Refuse a release that is not what was agreed.

    Raises
    ------
    MessageError
        Naming the first field that differs.
    """
    if manifest.fingerprint != fingerprint:
        raise MessageError(
            f"{manifest.site} runs other code (fingerprint {manifest.fingerprint[:12]}, server "
            f"{fingerprint[:12]}); install the same version on both sides"
        )
    for key in Mechanism.model_fields:
        declared, agreed = getattr(manifest, key), getattr(mechanism, key)
        if declared != agreed:
            raise MessageError(f"{manifest.site} declares {key} = {declared!r}, but {agreed!r} was agreed")
    if (
        len(manifest.class_counts) != len(class_names)
        or min(manifest.class_counts) < 0
        or not manifest.images
    ):
        raise MessageError(
            f"{manifest.site} declares class_counts = {manifest.class_counts}: must be {len(class_names)} "
            "numbers of at least 0, not all 0"
        )
    if manifest.number is not None and manifest.site != f"client-{manifest.number}":
        raise MessageError(
            f"{manifest.site} declares number = {manifest.number}: only client-{manifest.number} may"
        )
    rows = rows_per_shard(mechanism)
    if manifest.rows_per_shard != rows or manifest.shards != -(-manifest.images // rows):
        raise MessageError(
            f"{manifest.site} declares {manifest.shards} shards of {manifest.rows_per_shard} rows: must be "
            f"shards of {rows} rows"
        )


class Spool:
    """The shards of one site on the server's disk.

    Parameters
    ----------
    folder
        The site's folder.
    manifest
        The checked description of the release.

    Attributes
    ----------
    bytes
        Payload accepted so far.
    kept
        Shards that an earlier attempt had accepted.
    arrived
        Shards that are here, those of an earlier attempt included.
    sha256
        Of the upload, as a certificate states it; empty until it is accepted as a whole.
    """

    def __init__(self, folder: Path, manifest: ReleaseManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.bytes = 0
        self.kept = 0
        self.arrived = 0
        self.sha256 = ""

    @property
    def complete(self) -> bool:
        """Whether all of it is there and was accepted as a whole."""
        return bool(self.sha256)

    def resume(self) -> None:
        """Make the folder; shards that an earlier attempt accepted of the very same release are kept.

        The same release has the same description and certificate, whatever version of the code sends it.
        """
        if not self._is_of_this_release():
            self.create()
            return
        there = set(range(self.manifest.shards)) - set(self.missing())
        self.kept = self.arrived = len(there)
        self.bytes = sum(self._shard_bytes(shard) for shard in there)
        self._describe()

    def create(self) -> None:
        """Make the folder, without shards; what an earlier attempt left is deleted."""
        self.discard()
        self.kept = self.arrived = self.bytes = 0
        self._describe()

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not there."""
        return [shard.number for shard in self.shards() if not shard.path.is_file()]

    def _is_of_this_release(self) -> bool:
        try:
            earlier = Spool.open(self.folder).manifest
        except (OSError, ValueError):
            return False
        return earlier == self.manifest.model_copy(update={"fingerprint": earlier.fingerprint})

    def _describe(self) -> None:
        """Write manifest and certificate."""
        stated = self.manifest.model_dump(exclude_none=True)
        certificate = stated.pop("certificate")
        write_json(self.folder / MANIFEST, stated)
        if certificate:
            write_text(self.folder / CERTIFICATE, certificate)

    @classmethod
    def open(cls, folder: Path) -> Spool:
        """Read a spool that the server filled; writes nothing, so that many clients may do it at once."""
        stated = json.loads((folder / MANIFEST).read_text("utf-8"))
        certificate = folder / CERTIFICATE
        stated["certificate"] = certificate.read_text("utf-8") if certificate.exists() else ""
        return cls(folder, ReleaseManifest.model_validate(stated))

    def accept(self, shard: ShardManifest, arrays: dict[str, np.ndarray]) -> None:
        """Check one shard and write it.

        Raises
        ------
        MessageError
            When names, dtypes, shapes, sizes, labels or the hash are wrong.
        PrivacyError
            When the shard carries less noise than declared; nothing of it is kept.
        """
        site = self.manifest.site
        rows = self._expected_rows(shard)
        if set(arrays) != {"codes", "labels"}:
            raise MessageError(
                f"{site}, shard {shard.shard}: holds {sorted(arrays)[:5]}, but must hold codes and labels"
            )
        codes, labels = arrays["codes"], arrays["labels"]
        size = encoded_size(rows * int(np.prod(self.manifest.image_shape)), self.manifest.wire_bits)
        if codes.dtype != np.uint8 or codes.shape != (size,):
            raise MessageError(
                f"{site}, shard {shard.shard}: codes are {codes.dtype} of shape {codes.shape}, but must be "
                f"uint8 of shape ({size},)"
            )
        classes = len(self.manifest.class_counts)
        right = labels.dtype == np.int64 and labels.shape == (rows,)
        if not right or labels.min() < 0 or labels.max() >= classes:
            raise MessageError(
                f"{site}, shard {shard.shard}: labels must be int64 of shape ({rows},) from 0 to "
                f"{classes - 1}"
            )
        if shard_digest(codes, labels) != shard.sha256:
            raise MessageError(f"{site}, shard {shard.shard}: the bytes do not have the declared SHA-256")
        file = self._shard(shard.shard)
        self._check_noise(rows, [Codes(codes, rows, file.image_shape, file.bits)])
        file.write(codes, labels)
        self.arrived += 1
        self.bytes += codes.nbytes + labels.nbytes

    def finish(self) -> None:
        """Check the upload as a whole, once all shards are there; one of them is in memory at a time.

        Raises
        ------
        MessageError
            When labels and declared counts disagree, or the bytes are not those of the certificate.
        DataError
            When a shard is missing or damaged.
        PrivacyError
            When all shards together carry less noise than declared.
        """
        classes = len(self.manifest.class_counts)
        counts = np.bincount(self._labels(), minlength=classes).tolist()
        if counts != self.manifest.class_counts:
            raise MessageError(
                f"{self.manifest.site} declares class_counts = {self.manifest.class_counts}, but sent "
                f"{counts}"
            )
        sha256 = self.digest()
        check_received(self.manifest, sha256)
        self._check_noise(self.manifest.images, (shard.codes() for shard in self.shards()))
        self.sha256 = sha256

    def digest(self) -> str:
        """Return the SHA-256 of the upload as a certificate states it, however it came in shards."""
        unpacked = (part for shard in self.shards() for part in shard.codes().unpacked())
        return upload_digest(unpacked, self._labels())

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all decoded uploads, float32 (N, C, H, W), and labels, int64 (N,), in memory.

        What may be large is read with :func:`~fedpdiff.federation.pooled.pooled_images` instead.
        """
        import torch  # heavy, and a site that sends shards imports this module without training anything

        values = [part for shard in self.shards() for part in shard.codes().decoded()]
        return torch.from_numpy(np.concatenate(values)), torch.from_numpy(self._labels())

    def shards(self) -> list[ShardFile]:
        """Return all shards in order, whether or not they are there yet."""
        return [self._shard(number) for number in range(self.manifest.shards)]

    def discard(self) -> None:
        """Delete everything of this site."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _expected_rows(self, shard: ShardManifest) -> int:
        rows = self._shard(shard.shard).rows
        if shard.site != self.manifest.site or shard.rows != rows:
            raise MessageError(
                f"{self.manifest.site}, shard {shard.shard}: declares site {shard.site!r} and {shard.rows} "
                f"rows, but {rows} rows of {self.manifest.site!r} were expected"
            )
        return rows

    def _shard_bytes(self, number: int) -> int:
        """Return the payload of a shard: codes, and labels of 8 bytes."""
        rows, pixels = self._shard(number).rows, int(np.prod(self.manifest.image_shape))
        return encoded_size(rows * pixels, self.manifest.wire_bits) + 8 * rows

    def _shard(self, number: int) -> ShardFile:
        size = self.manifest.rows_per_shard
        rows = min(size, self.manifest.images - number * size)
        shape = tuple(self.manifest.image_shape)
        return ShardFile(self.folder, number, rows, shape, self.manifest.wire_bits)

    def _labels(self) -> np.ndarray:
        return np.concatenate([shard.labels() for shard in self.shards()])

    def _check_noise(self, images: int, codes: Iterable[Codes]) -> None:
        shape = tuple(self.manifest.image_shape)
        check = NoiseCheck(images, shape, self.manifest.alpha_bar, self.manifest.wire_bits)
        for some in codes:
            for part in some.decoded():
                check.add(part)
        check.judge()
