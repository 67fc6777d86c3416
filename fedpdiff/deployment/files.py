"""Files that are made once: what a person has or may have changed is never written again."""

from __future__ import annotations

import os
from pathlib import Path

from fedpdiff.errors import ConfigError

SECRET = 0o600
PUBLIC = 0o644
SCRIPT = 0o755


def check_settings_format(path: Path, found: object, known: str) -> None:
    """Refuse a settings file of another version; one without a format is of the first.

    Raises
    ------
    ConfigError
        Naming its format.
    """
    if found != known:
        raise ConfigError(
            f"{path} has the format {str(found)[:40]!r}, but this version reads {known!r}: use the version "
            "of fedpdiff that wrote it, or a newer one"
        )


class Setup:
    """Makes the files of one folder and remembers which were made and which were there already.

    Parameters
    ----------
    root
        The folder; made for its owner only.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.made: list[str] = []
        self.kept: list[str] = []
        self.folder(".")

    def folder(self, name: str) -> Path:
        """Make a folder that only its owner enters, or leave the one that is there."""
        path = self.root / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def write(self, name: str, content: str | bytes, mode: int = PUBLIC) -> Path:
        """Write a file that is not there yet: whole or not at all, never readable by more than ``mode``."""
        path = self.root / name
        if path.exists():
            self.kept.append(name)
            return path
        data = content.encode("utf-8") if isinstance(content, str) else content
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)  # whatever the umask says
            os.fsync(file.fileno())
        os.replace(part, path)
        self.made.append(name)
        return path

    def has(self, *names: str) -> bool:
        """Return whether all these files are there already; they are then counted as kept."""
        if not all((self.root / name).exists() for name in names):
            return False
        self.kept += names
        return True
