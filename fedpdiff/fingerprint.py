"""A fingerprint of the code that runs, so that server and clients notice when theirs differ."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath

from fedpdiff.errors import MessageError

_PACKAGES = ("fedpdiff", "client_app", "server_app")
_MIB = 32  # of code in a bundle; ours has one or two


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """Return the SHA-256 (hex) of all Python files of the library and the two apps beside it.

    Flower can run client code from another folder than the one just shipped (its workers import from the
    SuperLink's working directory first); unequal fingerprints tell.
    """
    root = Path(__file__).resolve().parent.parent
    return _fingerprint(
        (PurePosixPath(path.relative_to(root).as_posix()), path.read_bytes())
        for package in _PACKAGES
        for path in (root / package).rglob("*.py")
    )


def bundle_fingerprint(bundle: bytes) -> str:
    """Return the fingerprint of the code in a Flower app bundle (FAB), read in memory, nothing unpacked.

    Parameters
    ----------
    bundle
        The bundle's bytes, as the server ships them: a zip file.

    Raises
    ------
    MessageError
        When it is not a bundle, has a file twice, or is larger than code can be.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            entries = [entry for entry in archive.infolist() if _counts(PurePosixPath(entry.filename))]
            if len({PurePosixPath(entry.filename) for entry in entries}) < len(entries):
                raise MessageError("the app bundle has a file twice")
            if sum(entry.file_size for entry in entries) > _MIB * 2**20:
                raise MessageError(f"the app bundle has more than {_MIB} MiB of code")
            return _fingerprint((PurePosixPath(e.filename), archive.read(e)) for e in entries)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise MessageError(f"the app bundle cannot be read ({type(error).__name__})") from None


def _counts(path: PurePosixPath) -> bool:
    return path.suffix == ".py" and path.parts[0] in _PACKAGES


def _fingerprint(files: Iterable[tuple[PurePosixPath, bytes]]) -> str:
    digest = hashlib.sha256()
    for path, content in sorted(files, key=lambda file: (_PACKAGES.index(file[0].parts[0]), file[0])):
        digest.update(path.as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()
