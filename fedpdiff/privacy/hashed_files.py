"""A note that files were hashed and found right, so that they are not hashed again while they are the same.

A release is sent in shards, each by a process of its own: hashing all of it each time would cost its size
times the number of shards. Whatever changes a file afterwards, also in place, changes its inode or the time
of that change (ctime), which the kernel alone sets.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpdiff.privacy.disk import UNFINISHED, write_new

Identity = list[list[int]]


def identity(paths: Sequence[Path]) -> Identity:
    """Return what tells files as they are now from all others and from themselves at other times.

    Raises
    ------
    OSError
        When one is not there.
    """
    stats = [path.stat() for path in paths]
    return [[s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for s in stats]


def write_note(note: Path, files: Identity, hashes: Mapping[str, Any]) -> None:
    """Note that these files, as they are, have these hashes; where it cannot be written, there is no note."""
    part = note.with_name(f"{UNFINISHED}{note.name}")
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)
        write_new(part, json.dumps(_content(files, hashes)).encode())
        os.replace(part, note)


def is_noted(note: Path, files: Identity, hashes: Mapping[str, Any]) -> bool:
    """Return whether the last note is of these very files and hashes."""
    try:
        return bool(json.loads(note.read_bytes()) == _content(files, hashes))
    except (OSError, ValueError):
        return False


def _content(files: Identity, hashes: Mapping[str, Any]) -> dict[str, Any]:
    return {"files": files, "hashes": dict(hashes)}
