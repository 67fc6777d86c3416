"""What may be sent: one release, written whole from the ledger, made again whenever it is lost."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.disk import UNFINISHED, new_file, sync_folder, write_new
from fedpdiff.privacy.hashed_files import identity, is_noted, write_note
from fedpdiff.privacy.manifest import check_manifest_format


@dataclass(frozen=True, eq=False)
class Release:
    """A release on disk.

    Parameters
    ----------
    integers
        int16, shape (N, C, H, W), memory-mapped, read-only, rows in random order.
    labels
        int64, shape (N,), in the same order.
    manifest
        What may be told about it.
    certificate
        What it guarantees, in full; None for seeded noise.
    """

    integers: NDArray[np.int16]
    labels: NDArray[np.int64]
    manifest: dict[str, Any]
    certificate: dict[str, Any] | None


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


class Outbox:
    """The folder ``outbox`` of a release store; the caller holds the store's lock.

    Parameters
    ----------
    root
        The store's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / "outbox"
        self._note = root / "outbox-hashed.json"

    def read(self, again: bool = True) -> Release:
        """Return what is there.

        Parameters
        ----------
        again
            Whether to hash the arrays even if they are the files that were found right last time.

        Raises
        ------
        PrivacyError
            When something is missing or damaged.
        """
        return read_release(self._path, self._note, again)

    def write(
        self,
        manifest: dict[str, Any],
        certificate: dict[str, Any] | None,
        integers: Iterable[bytes],
        labels: NDArray[np.int64],
    ) -> None:
        """Replace the outbox, whole or not at all; ``integers`` are taken one image at a time."""
        unfinished = self._root / f"{UNFINISHED}{secrets.token_hex(8)}"
        unfinished.mkdir(mode=0o700)
        with new_file(unfinished / "release.npy") as file:
            header = {"descr": "<i2", "fortran_order": False, "shape": tuple(manifest["shape"])}
            np.lib.format.write_array_header_1_0(file, header)
            file.writelines(integers)
        with new_file(unfinished / "labels.npy") as file:
            np.save(file, labels)
        for name, value in (("manifest.json", manifest), ("certificate.json", certificate)):
            if value is not None:
                write_new(unfinished / name, _json(value))
        sync_folder(unfinished)
        # A crash between these two leaves no outbox: it is made again.
        if self._path.exists():
            self._path.rename(self._root / f"{UNFINISHED}{secrets.token_hex(8)}")
        unfinished.rename(self._path)
        sync_folder(self._root)
        for old in self._root.glob(UNFINISHED + "*"):
            shutil.rmtree(old)


def read_release(folder: Path, note: Path, again: bool = True) -> Release:
    """Return the release that lies in a folder; its certificate is read, not checked.

    Parameters
    ----------
    folder
        With arrays, manifest and certificate.
    note
        File in which to note that the arrays were hashed and found right.
    again
        Whether to hash them whatever the note says.

    Raises
    ------
    PrivacyError
        When something is missing, damaged or of another format.
    """
    arrays = [folder / "release.npy", folder / "labels.npy"]
    try:
        files = identity(arrays)
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        check_manifest_format(manifest["format"])
        integers = np.load(arrays[0], mmap_mode="r", allow_pickle=False)
        labels = np.load(arrays[1], allow_pickle=False)
        path = folder / "certificate.json"
        certificate = json.loads(path.read_text("utf-8")) if path.exists() else None
        hashes = {key: manifest[key] for key in ("sha256", "labels_sha256")}
        known = not again and files == identity(arrays) and is_noted(note, files, hashes)
        right = known or hashes == {"sha256": _sha256(integers), "labels_sha256": _sha256(labels)}
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise PrivacyError(f"the outbox cannot be read ({type(error).__name__})") from error
    if not right or integers.dtype != np.int16 or list(integers.shape) != manifest.get("shape"):
        raise PrivacyError("the outbox is damaged: its bytes do not match its manifest")
    if not known:
        write_note(note, files, hashes)
    return Release(integers, labels, manifest, certificate)


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data.cast("B")).hexdigest()
