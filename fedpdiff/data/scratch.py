"""A temporary folder for what may be private: deleted when done, and after a kill at the next start."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "fedpdiff-data-"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder that only this user enters; first delete those whose processes were killed."""
    remove_left_over()
    path, descriptor = _new_folder()
    try:
        yield path
    finally:
        shutil.rmtree(path)
        os.close(descriptor)


def remove_left_over() -> None:
    """Delete this user's folders that no living process holds: a lock ends with its process."""
    for path in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):  # in use, gone by now, another user's, or no folder
            descriptor = _open(path)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
            finally:
                os.close(descriptor)


def _new_folder() -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with contextlib.suppress(FileNotFoundError):  # another process's clearing came between: once more
            descriptor = _open(path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
