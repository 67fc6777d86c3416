"""One release per image, ever: written to the client's disk before anything is sent, re-read ever after.

FOLDER/            0700
  secret           32 random bytes, never sent: the key under which private images are fingerprinted
  lock
  release/         appears complete, by one rename, or not at all
    release.npy    int16 (N, C, H, W), the noisy integers, rows in random order
    labels.npy     int64 (N,), in the same order
    manifest.json  mechanism, settings, counts, hashes: may be sent
    request.json   settings and the keyed fingerprint of the private images: never sent
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.gaussian_noise import NoiseSource
from fedpdiff.privacy.mechanism import release_integers
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.request import ReleaseRequest
from fedpdiff.privacy.statement import privacy_statement

if TYPE_CHECKING:
    from fedpdiff.types import LabelledImages

FORMAT = "fedpdiff-release/1"
MECHANISM = "clip to L2 norm C around the centre; round toward zero to a grid of 2^-12; add round(sigma Z)"
NOT_PRIVATE = "NOT PRIVATE: seeded noise, for simulation only"
_UNFINISHED = ".unfinished-"


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


class ReleaseStore:
    """The folder of one client's one release.

    Parameters
    ----------
    folder
        Made if missing, readable by its owner only.
    policy
        The client's limits; they bind every request.
    """

    def __init__(self, folder: str | os.PathLike[str], policy: Policy) -> None:
        """Make the folder."""
        self.policy = policy
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        self._release = self.folder / "release"

    def get_or_make(self, request: ReleaseRequest, private: PrivateImages, noise: NoiseSource) -> Release:
        """Return the release of these images: the one on disk, or a new one if there is none yet.

        Raises
        ------
        PrivacyError
            When the store holds a release of other images or with other settings (a second release would
            spend more of the privacy budget), when its bytes are damaged, or when ``noise`` is not of the
            requested kind.
        """
        if noise.kind != request.noise or noise.private != (request.noise == "secure"):
            raise PrivacyError(f"release-noise is {request.noise!r}, but the noise source is {noise.kind!r}")
        self.policy.check_request(request)
        images = private.images.select(_as_index(private.first_of_each()))
        with self._locked():
            self._remove_unfinished()
            wanted = request.settings() | {"images": self._fingerprint(images)}
            if not self._release.exists():
                self._make(request, wanted, images, noise)
            else:
                self._refuse_other(wanted)
            return self._read()

    def read(self) -> Release:
        """Return the release on disk; never makes one.

        Raises
        ------
        PrivacyError
            When there is none, or its bytes are damaged.
        """
        with self._locked():
            return self._read()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out, so that two of them cannot both make the release."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _remove_unfinished(self) -> None:
        """Delete what a crash left behind; nothing of it was ever sent."""
        for path in self.folder.glob(_UNFINISHED + "*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _secret(self) -> bytes:
        path = self.folder / "secret"
        if not path.exists():
            temporary = self.folder / f"{_UNFINISHED}secret"
            _write(temporary, secrets.token_bytes(32))
            temporary.rename(path)
            _sync_folder(self.folder)
        return path.read_bytes()

    def _fingerprint(self, images: LabelledImages) -> str:
        """Return a keyed hash of images and labels, the same in any order.

        Keyed, because a plain hash of a private image lets anyone who can guess the image confirm the guess.
        """
        secret = self._secret()
        pixels, labels = images.images.contiguous().numpy(), images.labels.numpy()
        keys = sorted(
            hmac.digest(secret, int(label).to_bytes(8, "little", signed=True) + image.tobytes(), "sha256")
            for image, label in zip(pixels, labels, strict=True)
        )
        return hmac.new(secret, repr(pixels.shape[1:]).encode() + b"".join(keys), "sha256").hexdigest()

    def _refuse_other(self, wanted: dict[str, Any]) -> None:
        """Refuse every request but the one on disk (a ledger of several releases would decide here)."""
        stored = json.loads((self._release / "request.json").read_text())
        different = [
            "the private images" if key == "images" else f"{key} ({stored.get(key)!r} there, {value!r} now)"
            for key, value in wanted.items()
            if stored.get(key) != value
        ]
        if different:
            raise PrivacyError(
                f"the release on disk differs from the one asked for in {'; '.join(different)}. "
                "A second release would spend more of the images' privacy budget, so it is refused. "
                "Go on with the "
                "settings and images of the first release (a simulation: start a run of its own)"
            )

    def _make(
        self, request: ReleaseRequest, wanted: dict[str, Any], images: LabelledImages, noise: NoiseSource
    ) -> None:
        if len(images) == 0:
            raise PrivacyError("there are no images to release; this client has no training images")
        order = np.argsort(np.frombuffer(noise.read(8 * len(images)), np.uint64), kind="stable")
        shuffled = images.select(_as_index(order))
        integers = release_integers(
            shuffled.pixels().numpy(), request.centre, request.clip, request.alpha_bar, noise
        )
        labels = shuffled.labels.numpy()
        unfinished = self.folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
        unfinished.mkdir(mode=0o700)
        _write_array(unfinished / "release.npy", integers)
        _write_array(unfinished / "labels.npy", labels)
        _write(unfinished / "manifest.json", _json(_manifest(request, integers, labels)))
        _write(unfinished / "request.json", _json(wanted))
        _sync_folder(unfinished)
        unfinished.rename(self._release)  # from here on the release exists
        _sync_folder(self.folder)

    def _read(self) -> Release:
        _sync_folder(self.folder)  # a crash between rename and sync must not lose a release that is then sent
        try:
            manifest = json.loads((self._release / "manifest.json").read_text())
            integers = np.load(self._release / "release.npy", mmap_mode="r")
            labels = np.load(self._release / "labels.npy")
            intact = manifest["sha256"] == _sha256(integers) and manifest["labels_sha256"] == _sha256(labels)
        except (OSError, ValueError, KeyError) as error:
            raise PrivacyError(
                f"the release on disk cannot be read ({type(error).__name__}); restore it"
            ) from error
        if not intact:
            raise PrivacyError(
                "the release on disk is damaged: its bytes do not match its manifest. Restore it "
                "from a backup; making it again would be a second release"
            )
        return Release(integers, labels, manifest, None)


def _manifest(
    request: ReleaseRequest, integers: NDArray[np.int16], labels: NDArray[np.int64]
) -> dict[str, Any]:
    classes, counts = np.unique(labels, return_counts=True)
    manifest = {
        "format": FORMAT,
        "mechanism": MECHANISM,
        **request.settings(),
        "privacy": privacy_statement(
            request.alpha_bar, request.clip, request.delta, request.t0, request.schedule
        ),
        "shape": list(integers.shape),
        "class_counts": {str(label): int(count) for label, count in zip(classes, counts, strict=True)},
        "sha256": _sha256(integers),
        "labels_sha256": _sha256(labels),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return manifest if request.noise == "secure" else {"stamp": NOT_PRIVATE, **manifest}


def _as_index(order: NDArray[np.int64]) -> Any:
    import torch  # here, because the accounting must be quick to import

    return torch.from_numpy(order)


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data.cast("B")).hexdigest()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file, readable by its owner only, and wait at the end until it is on the disk."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, content: bytes) -> None:
    with _new_file(path) as file:
        file.write(content)


def _write_array(path: Path, array: NDArray[Any]) -> None:
    with _new_file(path) as file:
        np.save(file, array)


def _sync_folder(path: Path) -> None:
    """Wait until the folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
