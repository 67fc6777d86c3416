"""The server's spool: shards are checked on arrival and kept on disk until all of a site's are there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fedpdiff.errors import MessageError
from fedpdiff.federation.certificates import check_received
from fedpdiff.federation.protocol import Mechanism, ReleaseManifest, ShardManifest
from fedpdiff.privacy.arrival import check_noise_level
from fedpdiff.privacy.certificate_digests import upload_digest
from fedpdiff.privacy.wire import decode, encoded_size, unpack
from fedpdiff.runfolder import write_json, write_text

SHARD_BYTES = 16 * 2**20
MANIFEST, CERTIFICATE = "manifest.json", "certificate.json"


def rows_per_shard(mechanism: Mechanism) -> int:
    """Return how many images make one shard of at most about 16 MiB."""
    return max(1, SHARD_BYTES // encoded_size(int(np.prod(mechanism.image_shape)), mechanism.wire_bits))


def shard_digest(codes: np.ndarray, labels: np.ndarray) -> str:
    """Return the SHA-256 (hex) of a shard's bytes."""
    return hashlib.sha256(codes.tobytes() + labels.tobytes()).hexdigest()


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
    sha256
        Of the upload, as a certificate states it; empty until it is accepted as a whole.
    """

    def __init__(self, folder: Path, manifest: ReleaseManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.bytes = 0
        self.kept = 0
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
        self.kept = len(there)
        self.bytes = sum(self._shard_bytes(shard) for shard in there)
        self._describe()

    def create(self) -> None:
        """Make the folder, without shards; what an earlier attempt left is deleted."""
        self.discard()
        self.kept = self.bytes = 0
        self._describe()

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not there."""
        return [shard for shard in range(self.manifest.shards) if not self._path(shard).is_file()]

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
        check_noise_level(self._decode(codes, rows), self.manifest.alpha_bar, self.manifest.wire_bits)
        self._write(shard.shard, codes, labels)
        self.bytes += codes.nbytes + labels.nbytes

    def finish(self) -> None:
        """Check the upload as a whole, once all shards are there.

        Raises
        ------
        MessageError
            When a shard cannot be read, labels and declared counts disagree, or the bytes are not those of
            the certificate.
        PrivacyError
            When all shards together carry less noise than declared.
        """
        try:
            values, labels = self.read()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise MessageError(
                f"{self.manifest.site}: a shard on the disk is damaged ({type(error).__name__})"
            ) from error
        counts = torch.bincount(labels, minlength=len(self.manifest.class_counts)).tolist()
        if counts != self.manifest.class_counts:
            raise MessageError(
                f"{self.manifest.site} declares class_counts = {self.manifest.class_counts}, but sent "
                f"{counts}"
            )
        sha256 = self.digest()
        check_received(self.manifest, sha256)
        check_noise_level(values.numpy(), self.manifest.alpha_bar, self.manifest.wire_bits)
        self.sha256 = sha256

    def digest(self) -> str:
        """Return the SHA-256 of the upload as a certificate states it, however it came in shards."""
        codes, labels = zip(*self._shards(), strict=True)
        pixels, bits = int(np.prod(self.manifest.image_shape)), self.manifest.wire_bits
        unpacked = (unpack(part, bits, len(rows) * pixels) for part, rows in zip(codes, labels, strict=True))
        return upload_digest(unpacked, np.concatenate(labels))

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return decoded uploads, float32 (N, C, H, W), and labels, int64 (N,)."""
        values, labels = [], []
        for codes, rows in self._shards():
            labels.append(torch.from_numpy(rows))
            values.append(torch.from_numpy(self._decode(codes, len(rows))))
        return torch.cat(values), torch.cat(labels)

    def _shards(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield codes and labels of each shard in order."""
        for shard in range(self.manifest.shards):
            with np.load(self._path(shard), allow_pickle=False) as file:
                yield file["codes"], file["labels"]

    def discard(self) -> None:
        """Delete everything of this site."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _expected_rows(self, shard: ShardManifest) -> int:
        rows = self._rows(shard.shard)
        if shard.site != self.manifest.site or shard.rows != rows:
            raise MessageError(
                f"{self.manifest.site}, shard {shard.shard}: declares site {shard.site!r} and {shard.rows} "
                f"rows, but {rows} rows of {self.manifest.site!r} were expected"
            )
        return rows

    def _shard_bytes(self, shard: int) -> int:
        """Return the payload of a shard: codes, and labels of 8 bytes."""
        rows, pixels = self._rows(shard), int(np.prod(self.manifest.image_shape))
        return encoded_size(rows * pixels, self.manifest.wire_bits) + 8 * rows

    def _rows(self, shard: int) -> int:
        first = shard * self.manifest.rows_per_shard
        return min(self.manifest.rows_per_shard, self.manifest.images - first)

    def _decode(self, codes: np.ndarray, rows: int) -> np.ndarray:
        return decode(codes, self.manifest.wire_bits, (rows, *self.manifest.image_shape))

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:04d}.npz"

    def _write(self, shard: int, codes: np.ndarray, labels: np.ndarray) -> None:
        temporary = self.folder / f"shard-{shard:04d}.tmp"
        with temporary.open("wb") as file:
            np.savez(file, codes=codes, labels=labels)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path(shard))
