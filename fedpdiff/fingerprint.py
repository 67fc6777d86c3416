"""A fingerprint of the code that runs, so that server and clients notice when theirs differ."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

_PACKAGES = ("fedpdiff", "client_app", "server_app")


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """Return the SHA-256 (hex) of all Python files of the library and the two apps beside it.

    Flower can run client code from another folder than the one just shipped (its workers import from the
    SuperLink's working directory first); unequal fingerprints tell.
    """
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
