"""The SuperLink's database waits for locks instead of ending the run."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest
from flwr.supercore import sql_mixin

from server_app import superlink


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sql_mixin, "SQLITE_PRAGMAS", sql_mixin.SQLITE_PRAGMAS)  # put back afterwards
    monkeypatch.setattr(superlink, "LOCK_SECONDS", 60)
    path = tmp_path / "superlink.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    return path


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection with the settings that Flower gives each."""
    connection = sqlite3.connect(path, timeout=0)
    sql_mixin._set_sqlite_pragmas(connection, None)
    return connection


def test_a_writer_waits_longer_than_flower_does(database: Path) -> None:
    superlink.be_patient()
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        holder = sqlite3.connect(database, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        locked.set()
        time.sleep(7)  # Flower alone gives up after 5
        done.set()
        holder.execute("COMMIT")
        holder.close()

    connection = connect(database)
    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(60)
    connection.execute("INSERT INTO notes VALUES ('kept')")
    connection.commit()
    assert done.is_set()
    thread.join()
    assert connection.execute("SELECT text FROM notes").fetchall() == [("kept",)]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
