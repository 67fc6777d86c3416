"""The folder of a release store: its secret and its ledger belong together, and neither is made twice."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.disk import UNFINISHED, locked, remove_unfinished, sync_folder, write_new
from fedpdiff.privacy.ledger import ADVICE, Ledger, create_ledger, open_ledger


class StoreFolder:
    """Paths of one client's release store, and the order in which they come to be.

    Parameters
    ----------
    root
        Made if missing, readable by its owner only.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ledger = root / "ledger.sqlite"
        self._secret = root / "secret"
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, and clear what a crash left unfinished; nothing of it was ever sent."""
        with locked(self.root):
            remove_unfinished(self.root)
            yield

    @contextlib.contextmanager
    def ledger(self) -> Iterator[tuple[Ledger, bytes]]:
        """Open the ledger, made at first use, and its secret; the caller holds the lock.

        Raises
        ------
        PrivacyError
            When one of the two is missing or they do not belong together: images that were released would
            look new, and be noised again.
        """
        self._begin()
        secret = self._secret.read_bytes()
        with open_ledger(self._ledger, secret) as ledger:
            yield ledger, secret

    @property
    def begun(self) -> bool:
        """Whether there is a ledger."""
        return self._ledger.exists()

    def _begin(self) -> None:
        """Make ledger and secret; either without the other means a loss, but for a crash right here."""
        if self._secret.exists() and not self.begun:
            raise PrivacyError(f"the ledger is missing beside its secret; {ADVICE}")
        if (self.root / "release").exists() or ((self.root / "outbox").exists() and not self.begun):
            raise PrivacyError(
                "this folder holds a release that no ledger knows, made by an earlier version or left from a "
                f"ledger that was lost: {ADVICE}"
            )
        if self._secret.exists():
            return
        if self.begun:
            self._remove_empty_ledger()
        secret = secrets.token_bytes(32)
        write_new(self.root / f"{UNFINISHED}secret", secret)
        create_ledger(self.root / f"{UNFINISHED}ledger", secret)
        (self.root / f"{UNFINISHED}ledger").rename(self._ledger)
        sync_folder(self.root)  # the ledger first: a secret without one is a ledger that was lost
        (self.root / f"{UNFINISHED}secret").rename(self._secret)
        sync_folder(self.root)

    def _remove_empty_ledger(self) -> None:
        """Undo a beginning that a crash cut off between ledger and secret, when nothing was noised yet."""
        with open_ledger(self._ledger, None) as ledger:
            used = ledger.totals.images() or ledger.totals.noise_kinds()
        if used:
            raise PrivacyError(f"the secret of the ledger is missing; {ADVICE}, nor its secret")
        self._ledger.unlink()
