"""Flower's SuperLink with more patience for its database.

    python -P -m server_app.superlink [options of flower-superlink]

Flower waits 5 s for a lock of its SQLite file and then answers 500, at which SuperNodes and SuperExec end
themselves, and the run with them. A busy machine exceeds that (seen with "database is locked" in its log).
"""

from __future__ import annotations

from importlib import import_module

LOCK_SECONDS = 25  # below the 30 s for which Flower's clients wait for an answer


def be_patient() -> None:
    """Let every connection to the database wait for locks for ``LOCK_SECONDS``."""
    database = import_module("flwr.supercore.sql_mixin")
    pragmas = dict(database.SQLITE_PRAGMAS) | {"busy_timeout": str(1000 * LOCK_SECONDS)}
    database.SQLITE_PRAGMAS = tuple(pragmas.items())  # type: ignore[attr-defined]


def main() -> None:
    """Run Flower's SuperLink."""
    be_patient()
    import_module("flwr.superlink.cli").flower_superlink()


if __name__ == "__main__":
    main()
