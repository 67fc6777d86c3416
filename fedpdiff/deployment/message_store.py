"""What a stopped SuperLink's database still holds of uploads, taken out so that no byte of them is left.

Flower deletes messages once they are delivered, but SQLite keeps their bytes in free pages and in its
write-ahead log, and what was never delivered stays whole.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from fedpdiff.deployment.admission import SITES
from fedpdiff.deployment.coordinator import Coordinator
from fedpdiff.deployment.findings import listens
from fedpdiff.errors import RunError

DATABASE = Path("state") / "superlink.db"
# Of Flower 1.41: the content of messages, in pieces; which belong together; which run they are of.
_CONTENT = ("object_children", "run_objects", "objects", "task_message")
_STOP = "stop start-superlink and start-serverapp first, and start them again afterwards"


@dataclass(frozen=True)
class Emptied:
    """Sizes of the database in bytes, with its write-ahead log, before and after."""

    before: int
    after: int


def empty_message_store(root: Path) -> Emptied:
    """Remove the content of all messages of finished runs; registered sites and the list of runs stay.

    Parameters
    ----------
    root
        The coordinator's folder.

    Raises
    ------
    ConfigError
        When it is not a coordinator's folder.
    RunError
        When the SuperLink is running, a run is not finished, or the database is not as Flower 1.41 makes it.
    """
    settings = Coordinator.load(root)
    database = root / DATABASE
    if not database.is_file():
        return Emptied(0, 0)
    if listens(settings.superlink_port):
        raise RunError(f"the SuperLink is running (port {settings.superlink_port} answers); {_STOP}")
    before = _size(database)
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=1, isolation_level=None)) as connection:
            _empty(connection)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise RunError(f"{database} is in use; {_STOP}") from error
        raise RunError(
            f"{database} is not as Flower 1.41 makes it ({error}); nothing was deleted from it"
        ) from error
    except sqlite3.DatabaseError as error:
        raise RunError(
            f"{database} is damaged ({error}); delete it and {root / SITES}, and admit every site again"
        ) from error
    return Emptied(before, _size(database))


def _empty(connection: sqlite3.Connection) -> None:
    (unfinished,) = connection.execute("SELECT COUNT(*) FROM task WHERE finished_at IS NULL").fetchone()
    if unfinished:
        raise RunError(
            "a run is not finished, and its messages are still needed: let it finish, or start the SuperLink "
            "and stop the run (flwr list, flwr stop), then repeat this"
        )
    # Leaving write-ahead logging needs the file for itself, and deletes the log. Flower takes it up again.
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN EXCLUSIVE")
    for table in _CONTENT:
        connection.execute(f"DELETE FROM {table}")
    connection.execute("COMMIT")
    connection.execute("VACUUM")


def _size(database: Path) -> int:
    parts = [database, *(database.with_name(database.name + end) for end in ("-wal", "-shm", "-journal"))]
    return sum(path.stat().st_size for path in parts if path.exists())
