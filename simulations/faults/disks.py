"""A disk of a few megabytes that can be filled and emptied."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

SIZE = 64 * 2**20


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[bool], None]]:
    """Mount a small disk on a folder; yields a function that fills it (True) or makes room again (False).

    Raises
    ------
    NotImplementedError
        When it cannot be mounted: only root may.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        raise NotImplementedError("only root can mount a small disk: run as root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotImplementedError(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    filler = folder / "filler"

    def fill(full: bool) -> None:
        if not full:
            filler.unlink()
            return
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
