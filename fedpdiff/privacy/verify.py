"""Whether a release on disk is the one that its certificate describes, and the certificate is right."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.certificate_check import check_certificate, parse_certificate
from fedpdiff.privacy.certificate_digests import wire_digests
from fedpdiff.privacy.manifest import check_manifest_format
from fedpdiff.privacy.verify_ledger import ledger_problems

CERTIFICATE = "certificate.json"
_CHUNK_VALUES = 1 << 22
# What a release's manifest repeats, and must repeat rightly.
_REPEATED = (
    "mechanism", "t0", "alpha_bar", "clip", "centre_sha256", "schedule", "diffusion_steps", "image_shape",
    "preprocessing", "delta", "class_counts", "duplicates_dropped", "sha256", "labels_sha256", "created",
    "software",
)  # fmt: skip


def verify_release(folder: Path) -> list[str]:
    """Return what is wrong with a release folder, in words; empty when bytes and certificate are right.

    Parameters
    ----------
    folder
        Holds ``certificate.json``, ``manifest.json``, ``release.npy`` and ``labels.npy``. Headers of the
        arrays are compared with what they must be, never parsed. In a client's release store the ledger
        must say the same; a copy of the folder elsewhere can be checked without it.
    """
    try:
        certificate = parse_certificate(_read(folder / CERTIFICATE))
        problems = check_certificate(certificate)
        if problems:
            return problems  # its shapes cannot be relied on
        return [
            *_manifest_problems(folder, certificate),
            *_byte_problems(folder, certificate),
            *ledger_problems(folder.parent, certificate),
        ]
    except PrivacyError as error:
        return [str(error)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PrivacyError(f"{path.name} cannot be read ({type(error).__name__})") from None


def _manifest_problems(folder: Path, certificate: dict[str, Any]) -> list[str]:
    try:
        manifest = parse_certificate(_read(folder / "manifest.json"))
    except PrivacyError as error:
        return [str(error).replace("the certificate", "manifest.json")]
    try:
        check_manifest_format(manifest.get("format"))
    except PrivacyError as error:
        return [f"manifest.json: {error}"]
    statement = manifest.get("privacy")
    stated = {key: certificate.get(key) for key in statement} if isinstance(statement, dict) else None
    problems = [
        f"manifest.json has another {key} than the certificate"
        for key in _REPEATED
        if manifest.get(key) != certificate[key]
    ]
    if not statement or stated != statement:
        problems.append("manifest.json has another privacy statement than the certificate")
    if manifest.get("noise") != "secure" or "stamp" in manifest:
        problems.append("manifest.json speaks of simulated noise, the certificate does not")
    return problems


def _byte_problems(folder: Path, certificate: dict[str, Any]) -> list[str]:
    count, shape = certificate["n_images"], certificate["image_shape"]
    integers = _array(folder / "release.npy", "<i2", (count, *shape))
    labels = _array(folder / "labels.npy", "<i8", (count,))
    problems = []
    if _sha256(integers) != certificate["sha256"]:
        problems.append("release.npy does not have the bytes that the certificate is about")
    if _sha256(labels) != certificate["labels_sha256"]:
        problems.append("labels.npy does not have the bytes that the certificate is about")
    if class_counts(labels) != certificate["class_counts"]:
        problems.append("labels.npy has other numbers of images per class than the certificate")
    if not problems and wire_digests(_parts(integers), labels) != certificate["wire"]:
        problems.append("wire: what this release sends has other hashes than the certificate")
    return problems


def _array(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    begin, size = header.getvalue(), math.prod(shape) * np.dtype(dtype).itemsize
    try:
        with path.open("rb") as file:
            right = file.read(len(begin)) == begin and path.stat().st_size == len(begin) + size
    except OSError as error:
        raise PrivacyError(f"{path.name} cannot be read ({type(error).__name__})") from None
    if not right:
        raise PrivacyError(f"{path.name} is no array of {dtype} of shape {shape}, as the certificate says")
    return np.memmap(path, dtype, "r", offset=len(begin), shape=shape)


def _parts(integers: NDArray[np.int16]) -> Iterator[NDArray[np.int16]]:
    rows = max(1, _CHUNK_VALUES // max(1, integers[0].size))
    return (integers[start : start + rows] for start in range(0, len(integers), rows))


def _sha256(array: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for part in _parts(array):
        digest.update(part.tobytes())
    return digest.hexdigest()


def class_counts(labels: NDArray[np.int64]) -> dict[str, int]:
    """Return the number of images of each class that has any, as a certificate states it."""
    classes, counts = np.unique(labels, return_counts=True)
    return {str(label): int(count) for label, count in zip(classes, counts, strict=True)}
