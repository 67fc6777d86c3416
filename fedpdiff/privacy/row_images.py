"""Which image is behind which row of a release: private knowledge, for its owner's own attacks on it.

A release's rows are in random order; the ledger, which never leaves the site, knows it. Nothing is written.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.private import image_key

# The order of rows is that of Ledger.integers.
_KEYS = """
    SELECT i.key FROM releases r JOIN members m ON m.release = r.id JOIN images i ON i.id = m.image
    JOIN noisings n ON n.image = m.image AND n.settings = r.settings AND n.integers IS NOT NULL
    WHERE r.sha256 = ? AND r.labels_sha256 = ? ORDER BY n.position, n.id
"""


def images_of_rows(folder: Path, digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Return, for each row of the release in the outbox, the position of its image in ``digests``.

    Parameters
    ----------
    folder
        Of the release store.
    digests
        Of the originals of all images that were given to it, as in
        :class:`~fedpdiff.privacy.private.PrivateImages`.

    Returns
    -------
    int64 array of shape (n,); of exact duplicates the first.

    Raises
    ------
    PrivacyError
        When the folder has no ledger or no release, or the release is of other images.
    """
    try:
        secret = (folder / "secret").read_bytes()
        sent = json.loads((folder / "outbox" / "manifest.json").read_text("utf-8"))
        uri = f"{(folder / 'ledger.sqlite').absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            keys = connection.execute(_KEYS, (sent["sha256"], sent["labels_sha256"])).fetchall()
    except (OSError, ValueError, KeyError, TypeError, sqlite3.Error) as error:
        raise PrivacyError(
            f"{folder} holds no release whose order a ledger knows ({type(error).__name__})"
        ) from error
    known = {image_key(secret, digest): row for row, digest in reversed(list(enumerate(digests)))}
    rows = [known.get(key) for (key,) in keys]
    found = [row for row in rows if row is not None]
    if not rows or len(found) < len(rows):
        raise PrivacyError(
            f"{len(rows) - len(found)} of the {len(rows)} images of the release in {folder} are not among "
            f"the {len(known)} given"
        )
    return np.array(found, np.int64)
