"""The tables of a ledger, the triggers that let them only grow, and how an older ledger becomes a new one."""

from __future__ import annotations

FORMAT = "fedpdiff-ledger/2"
OLDER = "fedpdiff-ledger/1"  # had no doubts and no losses

# An image and a person are known by keys alone (HMAC under the site's secret). Integers are what was or may
# be sent; where the health check failed there are none, but the noising was drawn and is charged.
TABLES = {
    "site": """
        id INTEGER PRIMARY KEY CHECK (id = 1), format TEXT NOT NULL,
        secret_check BLOB NOT NULL, created TEXT NOT NULL""",
    "settings": """
        id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE""",
    "batches": """
        id INTEGER PRIMARY KEY, settings INTEGER NOT NULL REFERENCES settings,
        mu REAL NOT NULL CHECK (mu > 0), coordinator TEXT NOT NULL, time TEXT NOT NULL,
        software TEXT NOT NULL, healthy INTEGER NOT NULL CHECK (healthy IN (0, 1)), health TEXT NOT NULL""",
    "accepted": """
        batch INTEGER PRIMARY KEY REFERENCES batches, time TEXT NOT NULL""",
    "images": """
        id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE CHECK (length(key) = 32)""",
    "shown": """
        image INTEGER NOT NULL REFERENCES images, person BLOB NOT NULL CHECK (length(person) = 32),
        PRIMARY KEY (image, person)""",
    "noisings": """
        id INTEGER PRIMARY KEY, image INTEGER NOT NULL REFERENCES images,
        settings INTEGER NOT NULL REFERENCES settings, batch INTEGER NOT NULL REFERENCES batches,
        position INTEGER, sha256 BLOB, integers BLOB,
        CHECK ((integers IS NULL) = (sha256 IS NULL) AND (integers IS NULL) = (position IS NULL))""",
    "releases": """
        id INTEGER PRIMARY KEY, settings INTEGER NOT NULL REFERENCES settings, delta REAL NOT NULL,
        members BLOB NOT NULL, duplicates INTEGER NOT NULL, sha256 TEXT NOT NULL,
        labels_sha256 TEXT NOT NULL, wire TEXT NOT NULL, time TEXT NOT NULL, software TEXT NOT NULL,
        UNIQUE (settings, delta, members, duplicates)""",
    "members": """
        release INTEGER NOT NULL REFERENCES releases, image INTEGER NOT NULL REFERENCES images,
        label INTEGER NOT NULL, PRIMARY KEY (release, image)""",
    "doubts": """
        id INTEGER PRIMARY KEY, time TEXT NOT NULL, reason TEXT NOT NULL, missing INTEGER""",
    "settled": """
        doubt INTEGER PRIMARY KEY REFERENCES doubts, time TEXT NOT NULL, statement TEXT NOT NULL""",
    "lost": """
        id INTEGER PRIMARY KEY, settings TEXT NOT NULL, mu REAL NOT NULL CHECK (mu > 0),
        batches INTEGER NOT NULL, sha256 TEXT NOT NULL, labels_sha256 TEXT NOT NULL, time TEXT NOT NULL,
        UNIQUE (sha256, labels_sha256)""",
}
_SINCE_2 = ("doubts", "settled", "lost")
_WITHOUT_ROWID = ("shown", "members")
_INDICES = """
    -- Whatever the code does: one noising of an image per settings that is ever sent.
    CREATE UNIQUE INDEX one_noising ON noisings (image, settings) WHERE integers IS NOT NULL;
    CREATE INDEX charges ON noisings (image, batch);
    CREATE INDEX shown_persons ON shown (person);
"""
_INDICES_SINCE_2 = "CREATE INDEX images_of_batch ON noisings (batch, id);"


def schema() -> str:
    """Return the SQL that makes an empty ledger."""
    return "\n".join([*(_table(table) for table in TABLES), _INDICES, _INDICES_SINCE_2])


def migration() -> str:
    """Return the SQL that makes a ledger of the format ``OLDER`` one of the format ``FORMAT``."""
    return "\n".join(
        [
            *(_table(table) for table in _SINCE_2),
            _INDICES_SINCE_2,
            "DROP TRIGGER no_update_site;",
            f"UPDATE site SET format = '{FORMAT}';",
            _trigger("site", "UPDATE"),
        ]
    )


def stand_ins() -> str:
    """Return the SQL that lets a ledger of the format ``OLDER`` be read as it is."""
    return "\n".join(f"CREATE TEMP TABLE {table} ({TABLES[table]});" for table in _SINCE_2)


def _table(table: str) -> str:
    suffix = " WITHOUT ROWID" if table in _WITHOUT_ROWID else ""
    create = f"CREATE TABLE {table} ({TABLES[table]}){suffix};"
    return "\n".join([create, _trigger(table, "UPDATE"), _trigger(table, "DELETE")])


def _trigger(table: str, action: str) -> str:
    return (
        f"CREATE TRIGGER no_{action.lower()}_{table} BEFORE {action} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;"
    )


# What one request is about, for the time of one connection: row in the data set, key and person, label;
# the image's number in the ledger, and its noising under the requested settings, once there is one.
WANTED = """
    CREATE TEMP TABLE wanted (
        row INTEGER PRIMARY KEY, key BLOB NOT NULL, label INTEGER NOT NULL, person BLOB,
        image INTEGER, noising INTEGER)
"""
