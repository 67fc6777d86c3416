"""The witness of a ledger: a file in a second place that remembers how far the ledger had come.

A ledger restored from an old backup is whole and right in itself, but images that were noised after the
backup would look new to it. The witness notices: it holds the number of noisings and a hash chain over them,
and is written after each noising is committed, before a byte of it can leave. It is bound to its own file, so
that a witness which was restored together with its ledger is noticed as well.

Killed between commit and witness, the ledger is one noising ahead: nothing of it was sent, and the witness
catches up. A ledger behind its witness is one that was restored.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.disk import sync_folder
from fedpdiff.privacy.ledger_entries import now

FORMAT = "fedpdiff-witness/1"
_ABOUT = (
    "How far this site's ledger had come. It notices a ledger that was restored from an old backup: never "
    "copy this file, edit it or restore it"
)
# Linux: the number that a file system gives each new use of an inode; not all file systems have one.
_GENERATION = 0x80087601


@dataclass(frozen=True)
class Doubt:
    """Why a ledger may not be the newest one of its site.

    Parameters
    ----------
    reason
        In words.
    missing
        How many noisings it lacks; None when that is not known.
    """

    reason: str
    missing: int | None = None


class Witness:
    """The witness of one ledger; the caller holds the lock of the ledger's folder.

    Parameters
    ----------
    path
        Of the file; None where there is none, as in simulation: then everything is believed.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._noisings: int | None = None  # what is known to be in the file

    def begin(self) -> None:
        """Make way for a new ledger: there must be no witness that knows of noisings.

        Raises
        ------
        PrivacyError
            When there is one: then a ledger was lost.
        """
        if self.path is None or not self.path.exists():
            return
        found = self._read(self.path)
        if found is None or found["noisings"]:
            raise PrivacyError(
                f"the witness {self.path} knows a ledger that is not here any more: restore its newest "
                "backup (fedpdiff ledger DIR --restore FILE). Starting anew would noise its images a "
                "second time, uncharged; delete the witness only if nothing was ever released from it"
            )

    def compare(self, name: str, chain: Sequence[str]) -> Doubt | None:
        """Do as :meth:`judge`; where there is no doubt, a witness one noising behind catches up.

        Raises
        ------
        PrivacyError
            Also when the witness cannot be written.
        """
        doubt = self.judge(name, chain)
        if doubt is None:
            self.tell(name, chain)
        return doubt

    def judge(self, name: str, chain: Sequence[str]) -> Doubt | None:
        """Return why this ledger may not be the newest, or None; writes nothing.

        Parameters
        ----------
        name
            Of the ledger.
        chain
            Its hash chain: one entry before the first noising and one after each.

        Raises
        ------
        PrivacyError
            When the witness cannot be read, is another ledger's, or of an unknown format.
        """
        if self.path is None:
            return None
        self._noisings = None
        if not self.path.exists():
            return Doubt("its witness is missing")
        found = self._read(self.path)
        if found is None:
            return Doubt("its witness is damaged")
        if found["ledger"] != name:
            raise PrivacyError(
                f"the witness {self.path} belongs to another ledger; every site has a witness of its own: "
                "set another path (site.toml: witness, or --witness)"
            )
        here, known = len(chain) - 1, found["noisings"]
        if known > here:
            return Doubt(f"it holds {here} noisings, but its witness knows {known}", known - here)
        if chain[known] != found["digest"]:
            return Doubt("its noisings are not those that its witness knows", 1)  # it lacks one at least
        if found["file"] != _identity(self.path):
            return Doubt("its witness was itself copied or restored")
        if here > known + 1:
            return Doubt(f"it holds {here} noisings, but its witness knows only {known}")
        self._noisings = known
        return None

    def tell(self, name: str, chain: Sequence[str]) -> None:
        """Write how far the ledger has come, if that is new.

        Raises
        ------
        PrivacyError
            When that is not possible; nothing may leave then.
        """
        if self.path is not None and self._noisings != len(chain) - 1:
            self.write(name, chain)

    def write(self, name: str, chain: Sequence[str]) -> None:
        """Write how far the ledger has come, whatever was there; only its owner may ask for that."""
        if self.path is None:
            return
        try:
            self._write(self.path, {"ledger": name, "noisings": len(chain) - 1, "digest": chain[-1]})
        except OSError as error:
            raise PrivacyError(
                f"the witness {self.path} cannot be written ({error.strerror}); nothing is sent until it "
                "can. What was noised is kept and goes out when asked for again"
            ) from error
        self._noisings = len(chain) - 1

    @staticmethod
    def _write(path: Path, content: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            known = {"about": _ABOUT, "format": FORMAT, **content, "file": _identity(part), "time": now()}
            json.dump(known, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        """Return what the file says; None when it is damaged."""
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError:
            return None
        except OSError as error:
            raise PrivacyError(f"the witness {path} cannot be read ({error.strerror})") from error
        if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
            raise PrivacyError(
                f"the witness {path} has the format {found['format']!r}, but this version reads {FORMAT!r}"
            )
        types = {"ledger": str, "noisings": int, "digest": str, "file": str}
        right = isinstance(found, dict) and all(type(found.get(key)) is kind for key, kind in types.items())
        return found if right and found["noisings"] >= 0 else None


def hash_chain(entries: Sequence[Sequence[Any]]) -> list[str]:
    """Return a hash before the first entry and after each; the n-th depends on all entries up to it."""
    chain = [hashlib.sha256(FORMAT.encode()).hexdigest()]
    for entry in entries:
        chain.append(hashlib.sha256((chain[-1] + json.dumps(list(entry))).encode()).hexdigest())
    return chain


def _identity(path: Path) -> str:
    """Return what tells this file from a copy of it, also from one that took its place."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        inode, generation = os.fstat(descriptor).st_ino, bytearray(8)
        try:
            fcntl.ioctl(descriptor, _GENERATION, generation)
        except OSError:
            return f"{inode}"
        return f"{inode}:{int.from_bytes(generation, 'little')}"
    finally:
        os.close(descriptor)
