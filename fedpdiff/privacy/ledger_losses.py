"""What a ledger knows of noisings that it does not hold: doubts about it, and how its owner settled them.

While a doubt is open, images that look new to the ledger may have been noised already: nothing is noised, and
what is sent again is certified as if the site's policy had been used up. The owner settles it: by stating
that nothing was lost, or with the certificates of what was. Those charge every image that may have been in
them, known to the ledger or not.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from fedpdiff.privacy.ledger_entries import now
from fedpdiff.privacy.witness import Doubt

# What a noising depends on, as a certificate states it; see ReleaseRequest.noising.
_NOISING = (
    "t0", "alpha_bar", "clip", "centre_sha256", "schedule", "diffusion_steps", "image_shape", "preprocessing",
)  # fmt: skip


@dataclass(frozen=True)
class LostRelease:
    """A release that was sent and that the ledger does not hold.

    Parameters
    ----------
    settings
        What its noisings depended on, as JSON.
    mu
        Spent on each of its images.
    sha256, labels_sha256
        Of its arrays.
    """

    settings: str
    mu: float
    sha256: str
    labels_sha256: str

    @classmethod
    def of(cls, certificate: dict[str, Any]) -> LostRelease:
        """Take it out of a certificate in which nothing is wrong."""
        settings = {key: certificate[key] for key in _NOISING} | {"noise": "secure"}
        text = json.dumps(settings, sort_keys=True)
        return cls(text, certificate["mu"], certificate["sha256"], certificate["labels_sha256"])


def lost_to(image: str, what: str) -> str:
    """Return SQL for what lost noisings may have done to an image.

    Under some settings an image is noised once: one that had been when the ledger was restored was sent again
    in the lost releases with these settings, not noised. Every other image may have been.

    Parameters
    ----------
    image
        SQL expression of its number; NULL for an image that the ledger does not know.
    what
        Aggregate over the lost noisings ``l``.
    """
    return (
        f"(SELECT {what} FROM (SELECT DISTINCT settings, mu, batches FROM lost) l WHERE NOT EXISTS ("
        "SELECT 1 FROM noisings x JOIN settings y ON y.id = x.settings WHERE x.integers IS NOT NULL "
        f"AND x.image = {image} AND y.text = l.settings AND x.batch <= l.batches))"
    )


class Losses:
    """Doubts and losses of an open ledger; the caller writes within a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def doubt(self) -> Doubt | None:
        """The open doubt, the worst of several; None when the ledger is known to be the newest."""
        row = self._run(
            "SELECT reason, missing FROM doubts WHERE id NOT IN (SELECT doubt FROM settled) "
            "ORDER BY COALESCE(missing, 0) DESC, id"
        ).fetchone()
        return Doubt(*row) if row else None

    @property
    def uncertain(self) -> bool:
        """Whether there is a doubt or a loss: then nobody knows who was shown in all images ever noised."""
        return self.doubt is not None or bool(self._run("SELECT EXISTS (SELECT 1 FROM lost)").fetchone()[0])

    def knows(self, sha256: str, labels_sha256: str) -> bool:
        """Return whether a release is among the lost ones."""
        query = "SELECT EXISTS (SELECT 1 FROM lost WHERE sha256 = ? AND labels_sha256 = ?)"
        return bool(self._run(query, sha256, labels_sha256).fetchone()[0])

    def count(self) -> int:
        """Return how many lost releases are charged."""
        return int(self._run("SELECT COUNT(*) FROM lost").fetchone()[0])

    def note(self, doubt: Doubt) -> None:
        """Write down a doubt."""
        self._run(
            "INSERT INTO doubts (time, reason, missing) VALUES (?, ?, ?)", now(), doubt.reason, doubt.missing
        )

    def settle(self, statement: str) -> None:
        """Close all doubts, with a sentence that says why."""
        self._run(
            "INSERT INTO settled SELECT id, ?, ? FROM doubts WHERE id NOT IN (SELECT doubt FROM settled)",
            *(now(), statement),
        )

    def charge(self, lost: LostRelease) -> None:
        """Charge a lost release to all images that may have been in it."""
        self._run(
            "INSERT INTO lost (settings, mu, batches, sha256, labels_sha256, time) "
            "SELECT ?, ?, COALESCE(MAX(id), 0), ?, ?, ? FROM batches",
            *(lost.settings, lost.mu, lost.sha256, lost.labels_sha256, now()),
        )

    def _run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)
