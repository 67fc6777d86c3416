"""The folder of a release store: its secret and its ledger belong together, and neither is made twice."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.disk import UNFINISHED, locked, remove_unfinished, sync_folder, write_new
from fedpdiff.privacy.ledger import ADVICE, Ledger, create_ledger, open_ledger
from fedpdiff.privacy.witness import Witness


class StoreFolder:
    """Paths of one client's release store, and the order in which they come to be.

    Parameters
    ----------
    root
        Made if missing, readable by its owner only.
    witness
        Where the ledger's witness lies; None = where it lay last time, if it has one.
    """

    def __init__(self, root: Path, witness: Path | None = None) -> None:
        self.root = root
        self.ledger_file = root / "ledger.sqlite"
        self.secret_file = root / "secret"
        self._pointer = root / "witness-path"
        self._given = witness
        self.witness = Witness(None)  # until the folder is locked
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, and clear what a crash left unfinished; nothing of it was ever sent."""
        with locked(self.root):
            remove_unfinished(self.root)
            self.witness = Witness(self._witness_path())
            yield

    @contextlib.contextmanager
    def ledger(self) -> Iterator[tuple[Ledger, bytes]]:
        """Open the ledger, made at first use, and its secret; the caller holds the lock.

        A ledger that its witness does not know as the newest is in doubt from then on, until the witness
        agrees again or the owner settles it.

        Raises
        ------
        PrivacyError
            When one of the two is missing or they do not belong together: images that were released would
            look new, and be noised again. Also when the witness cannot be read or written.
        """
        self._begin()
        secret = self.secret_file.read_bytes()
        with open_ledger(self.ledger_file, secret) as ledger:
            self._compare(ledger)
            yield ledger, secret

    def tell_witness(self, ledger: Ledger) -> None:
        """Let the witness know of what was committed; before that nothing of it may leave.

        Raises
        ------
        PrivacyError
            When the witness cannot be written.
        """
        if ledger.losses.doubt is None:
            self.witness.tell(ledger.name, ledger.chain())

    def _compare(self, ledger: Ledger) -> None:
        doubt, known = self.witness.compare(ledger.name, ledger.chain()), ledger.losses.doubt
        if doubt and (known is None or (doubt.missing or 0) > (known.missing or 0)):
            with ledger.transaction():  # also a worse one: a witness that was away may come back knowing more
                ledger.losses.note(doubt)
        if doubt is None and known and self.witness.path:
            with ledger.transaction():
                ledger.losses.settle("the witness agrees again")

    def _witness_path(self) -> Path | None:
        """Return where the witness lies, and remember it for whoever opens the folder without knowing."""
        known = self._pointer.read_text("utf-8") if self._pointer.exists() else ""
        if self._given is None:
            return Path(os.path.abspath(self.root / known)) if known else None
        path, root = self._given.absolute(), self.root.absolute()
        near = path.is_relative_to(root.parents[min(2, len(root.parents) - 1)])
        given = os.path.relpath(path, root) if near else str(path)  # a site's folder may be moved as a whole
        if known != given:
            write_new(self.root / f"{UNFINISHED}witness-path", given.encode())
            (self.root / f"{UNFINISHED}witness-path").replace(self._pointer)
            sync_folder(self.root)
        return path

    @property
    def begun(self) -> bool:
        """Whether there is a ledger."""
        return self.ledger_file.exists()

    def _begin(self) -> None:
        """Make ledger and secret; either without the other means a loss, but for a crash right here."""
        if self.secret_file.exists() and not self.begun:
            raise PrivacyError(f"the ledger is missing beside its secret; {ADVICE}")
        if (self.root / "release").exists() or ((self.root / "outbox").exists() and not self.begun):
            raise PrivacyError(
                "this folder holds a release that no ledger knows, made by an earlier version or left from a "
                f"ledger that was lost: {ADVICE}"
            )
        if self.secret_file.exists():
            return
        if self.begun:
            self._remove_empty_ledger()
        self.witness.begin()
        secret = secrets.token_bytes(32)
        write_new(self.root / f"{UNFINISHED}secret", secret)
        create_ledger(self.root / f"{UNFINISHED}ledger", secret)
        with open_ledger(self.root / f"{UNFINISHED}ledger", secret) as ledger:
            self.witness.write(ledger.name, ledger.chain())  # before the ledger: one without is in doubt
        (self.root / f"{UNFINISHED}ledger").rename(self.ledger_file)
        sync_folder(self.root)  # the ledger first: a secret without one is a ledger that was lost
        (self.root / f"{UNFINISHED}secret").rename(self.secret_file)
        sync_folder(self.root)

    def _remove_empty_ledger(self) -> None:
        """Undo a beginning that a crash cut off between ledger and secret, when nothing was noised yet."""
        with open_ledger(self.ledger_file, None) as ledger:
            used = ledger.totals.images() or ledger.totals.noise_kinds()
        if used:
            raise PrivacyError(f"the secret of the ledger is missing; {ADVICE}, nor its secret")
        self.ledger_file.unlink()
