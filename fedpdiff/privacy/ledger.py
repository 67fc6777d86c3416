"""The ledger of one client: every noising of every image, for ever, with the integers that came of it.

One SQLite file. Triggers abort every change and deletion; one transaction per noising, synchronised before it
counts, so that after a crash a noising is in the ledger whole or not at all. Images and persons are there as
keys only (HMAC under the site's secret), never by content or name.

A ledger that is lost, damaged or older than what was sent would let images be noised again as if for the
first time. So nothing here repairs one: the owner restores it from a backup.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.ledger_entries import Batch, Contents, StoredRelease, now
from fedpdiff.privacy.ledger_schema import FORMAT, OLDER, WANTED, migration, schema, stand_ins
from fedpdiff.privacy.ledger_totals import Totals
from fedpdiff.privacy.release_hashes import hash_rows
from fedpdiff.privacy.witness import hash_chain

ADVICE = "restore it from a backup, and never delete it: images would be noised a second time, uncharged"
_CHECK = b"the secret of this ledger"


def create_ledger(path: Path, secret: bytes) -> None:
    """Make an empty ledger, readable by its owner only, whose keys are made with ``secret``."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.executescript("BEGIN;" + schema())
        check = hmac.digest(secret, _CHECK, "sha256")
        connection.execute("INSERT INTO site VALUES (1, ?, ?, ?)", (FORMAT, check, now()))
        connection.execute("COMMIT")


@contextlib.contextmanager
def open_ledger(path: Path, secret: bytes | None) -> Iterator[Ledger]:
    """Open a ledger; the caller holds the folder's lock.

    Raises
    ------
    PrivacyError
        When it is damaged, of another format, or was made with another secret.
    """
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"  # never makes a new one
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            for setting in ("synchronous = EXTRA", "foreign_keys = ON", "recursive_triggers = ON"):
                connection.execute(f"PRAGMA {setting}")
            connection.execute("PRAGMA temp_store = MEMORY")
            format_, check = connection.execute("SELECT format, secret_check FROM site").fetchone()
            _check_format(format_)
            if secret is not None and check != hmac.digest(secret, _CHECK, "sha256"):
                raise PrivacyError(f"the ledger was made with another secret; {ADVICE}, nor its secret")
            if format_ == OLDER:
                connection.executescript(f"BEGIN IMMEDIATE;{migration()}COMMIT;")
            yield Ledger(connection)
    except sqlite3.Error as error:
        raise PrivacyError(
            f"the ledger cannot be used ({error}); nothing was released. If it is damaged or lost, {ADVICE}"
        ) from error


@contextlib.contextmanager
def read_ledger(path: Path) -> Iterator[Ledger]:
    """Open a ledger for reading, of the older format too; needs no lock and changes nothing.

    Raises
    ------
    PrivacyError
        When it is of another format.
    sqlite3.Error
        When it is damaged.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        (format_,) = connection.execute("SELECT format FROM site").fetchone()
        _check_format(format_)
        if format_ == OLDER:
            connection.executescript(stand_ins())
        yield Ledger(connection)


def _check_format(found: str) -> None:
    if found not in (OLDER, FORMAT):
        raise PrivacyError(
            f"the ledger has the format {found!r}, but this version reads {OLDER!r} and {FORMAT!r}: use the "
            "version of fedpdiff that wrote it, or a newer one"
        )


class Ledger:
    """An open ledger; see :func:`open_ledger`.

    Attributes
    ----------
    totals
        Questions about what was spent.
    losses
        What is known of noisings that are not in it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.totals = Totals(connection)
        self.losses = self.totals.losses

    @property
    def name(self) -> str:
        """What tells this site's ledger from other sites'; says nothing about its secret."""
        return hashlib.sha256(self._one("SELECT secret_check FROM site")[0]).hexdigest()

    def chain(self) -> list[str]:
        """Return the hash chain over all noisings, failed ones too: an entry before them, one after each.

        The hash of the first image's noisy copy tells a noising from every other.
        """
        rows = self._run(
            "SELECT b.id, s.text, b.mu, b.coordinator, b.time, b.software, b.health, "
            "(SELECT hex(n.sha256) FROM noisings n WHERE n.batch = b.id ORDER BY n.id LIMIT 1) "
            "FROM batches b JOIN settings s ON s.id = b.settings ORDER BY b.id"
        )
        return hash_chain(rows.fetchall())

    def check(self) -> None:
        """Look for damage that could hide a noising; reads the whole file.

        Raises
        ------
        PrivacyError
            When there is any.
        """
        (found,) = self._one("PRAGMA integrity_check(1)")
        if found != "ok":
            raise PrivacyError(f"the ledger is damaged; {ADVICE}")

    # -- the request --------------------------------------------------------------------------------------

    def want(
        self, settings: str, keys: Iterable[bytes], labels: Iterable[int], persons: Iterable[bytes | None]
    ) -> None:
        """Name the images of a request, each once, and find what the ledger has of them."""
        self._run("DROP TABLE IF EXISTS temp.wanted")
        self._run(WANTED)
        rows = ((row, *values) for row, values in enumerate(zip(keys, labels, persons, strict=True)))
        self._connection.executemany("INSERT INTO wanted (row, key, label, person) VALUES (?, ?, ?, ?)", rows)
        self._find(settings)

    def _find(self, settings: str) -> None:
        self._run("UPDATE wanted SET image = (SELECT id FROM images WHERE images.key = wanted.key)")
        self._run(
            "UPDATE wanted SET noising = (SELECT id FROM noisings WHERE noisings.image = wanted.image "
            "AND settings = (SELECT id FROM settings WHERE text = ?) AND integers IS NOT NULL)",
            settings,
        )

    def new_rows(self) -> NDArray[np.int64]:
        """Return the rows of the request that have no noising with these settings."""
        rows = self._run("SELECT row FROM wanted WHERE noising IS NULL ORDER BY row").fetchall()
        return np.array(rows, np.int64).reshape(-1)

    # -- releases -----------------------------------------------------------------------------------------

    def releases(self) -> list[StoredRelease]:
        """Return all releases, the oldest first."""
        return self._releases("1")

    def find_release(self, contents: Contents) -> StoredRelease | None:
        """Return the release of exactly this, if there is one."""
        found = self._releases(
            "s.text = ? AND r.delta = ? AND r.members = ? AND r.duplicates = ?",
            *(contents.settings, contents.delta, contents.members, contents.duplicates),
        )
        return found[0] if found else None

    def _releases(self, condition: str, *values: Any) -> list[StoredRelease]:
        rows = self._run(
            "SELECT r.id, s.text, r.delta, r.duplicates, r.sha256, r.labels_sha256, r.wire, r.time, "
            "r.software "
            f"FROM releases r JOIN settings s ON s.id = r.settings WHERE {condition} ORDER BY r.id",
            *values,
        )
        return [StoredRelease(*row) for row in rows]

    def labels(self, release: StoredRelease) -> NDArray[np.int64]:
        """Return the labels of a release, in the order of its rows."""
        return np.array([label for _, label in self._members(release.id)], np.int64)

    def integers(self, release: StoredRelease) -> Iterator[bytes]:
        """Yield the integers of a release, image by image, in the order of its rows.

        Raises
        ------
        PrivacyError
            When an image's integers are not those that were committed.
        """
        return self._integers(self._members(release.id))

    def _members(self, release: int) -> list[tuple[int, int]]:
        """Return noising and label of every row."""
        return self._run(
            "SELECT n.id, m.label FROM releases r JOIN members m ON m.release = r.id JOIN noisings n "
            "ON n.image = m.image AND n.settings = r.settings AND n.integers IS NOT NULL "
            "WHERE r.id = ? ORDER BY n.position, n.id",
            release,
        ).fetchall()

    def _integers(self, members: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        for noising, _ in members:
            integers, sha256 = self._one("SELECT integers, sha256 FROM noisings WHERE id = ?", noising)
            if hashlib.sha256(integers).digest() != sha256:
                raise PrivacyError(f"the ledger is damaged: an image's integers have changed; {ADVICE}")
            yield integers

    # -- writing ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all of what follows, or nothing."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back when the disk is full
                self._run("ROLLBACK")
            raise
        self._run("COMMIT")

    def add_batch(self, settings: str, batch: Batch) -> None:
        """Charge a noising to all new images of the request, and keep its integers if there are any."""
        number = self._settings(settings)
        self._run(
            "INSERT INTO batches (settings, mu, coordinator, time, software, healthy, health) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(number, batch.mu, batch.coordinator, now(), batch.software),
            *(batch.integers is not None, batch.health),
        )
        (id_,) = self._one("SELECT last_insert_rowid()")
        # In the order of their keys, which says nothing about the order of the data set.
        self._run("INSERT INTO images (key) SELECT key FROM wanted WHERE image IS NULL ORDER BY key")
        self._find(settings)
        images = self._run("SELECT image FROM wanted WHERE noising IS NULL ORDER BY row").fetchall()
        self._connection.executemany(
            "INSERT INTO noisings (image, settings, batch, position, sha256, integers) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                (image, number, id_, *kept)
                for (image,), kept in zip(images, batch.kept(len(images)), strict=True)
            ),
        )
        self._find(settings)

    def persons_are_new(self) -> bool:
        """Return whether the request says of a noised image that it shows somebody not yet noted for it."""
        (count,) = self._one(
            "SELECT COUNT(*) FROM wanted w WHERE person IS NOT NULL AND image IS NOT NULL "
            "AND NOT EXISTS (SELECT 1 FROM shown s WHERE s.image = w.image AND s.person = w.person)"
        )
        return bool(count)

    def add_persons(self) -> None:
        """Note who is shown in the images of the request."""
        self._run("INSERT OR IGNORE INTO shown SELECT image, person FROM wanted WHERE person IS NOT NULL")

    def add_release(self, contents: Contents, software: str) -> StoredRelease:
        """Note that the images of the request, all of them noised, make up a release."""
        rows = self._run(
            "SELECT n.id, w.label FROM wanted w JOIN noisings n ON n.id = w.noising ORDER BY n.position, n.id"
        ).fetchall()
        hashes = hash_rows(self._integers(rows), np.array([label for _, label in rows], np.int64))
        self._run(
            "INSERT INTO releases (settings, delta, members, duplicates, sha256, labels_sha256, wire, time, "
            "software) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(self._settings(contents.settings), contents.delta, contents.members, contents.duplicates),
            *(hashes.sha256, hashes.labels_sha256, json.dumps(hashes.wire), now(), software),
        )
        (id_,) = self._one("SELECT last_insert_rowid()")
        self._run("INSERT INTO members SELECT ?, image, label FROM wanted", id_)
        return self._releases("r.id = ?", id_)[0]

    def accept_failures(self) -> int:
        """Note that the owner knows of failed health checks and allows new noisings; they stay charged."""
        with self.transaction():
            batches = self.totals.failed_batches()
            rows = [(batch, now()) for batch in batches]
            self._connection.executemany("INSERT INTO accepted VALUES (?, ?)", rows)
        return len(batches)

    def _settings(self, text: str) -> int:
        self._run("INSERT OR IGNORE INTO settings (text) VALUES (?)", text)
        return int(self._one("SELECT id FROM settings WHERE text = ?", text)[0])

    def _run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def _one(self, sql: str, *values: Any) -> Any:
        return self._run(sql, *values).fetchone()
