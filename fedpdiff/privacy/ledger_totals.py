"""What a ledger says was spent: on an image, on a person, by noisings that failed their health check."""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import dataclass
from typing import Any

from fedpdiff.privacy.ledger_losses import Losses, lost_to

_LOST_MU2 = "COALESCE(SUM(l.mu * l.mu), 0.0)"


@dataclass(frozen=True)
class Spent:
    """The most that was spent on one image: its noisings, and sqrt(sum mu^2) over them."""

    noisings: int
    mu: float


@dataclass(frozen=True)
class PersonSpent:
    """The most that was ever released of one person: images, and sqrt(sum mu^2) over all their noisings.

    Every image has noise of its own, so a person's images compose as noisings do.
    """

    images: int
    mu: float


class Totals:
    """Questions to an open ledger; every noising counts, also of images no longer in the data, and lost ones.

    Attributes
    ----------
    losses
        What is known of noisings that are not in it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.losses = Losses(connection)

    # -- with the request that Ledger.want named ----------------------------------------------------------

    def spent_if_made(self, mu: float) -> float:
        """Return the largest mu that an image of the request will have spent, each new one ``mu`` more."""
        (most,) = self._one(
            "SELECT MAX(spent) FROM (SELECT COALESCE(SUM(b.mu * b.mu), 0.0) "
            f"+ {lost_to('w.image', _LOST_MU2)} "
            "+ CASE WHEN w.noising IS NULL THEN ?1 * ?1 ELSE 0.0 END AS spent "
            "FROM wanted w LEFT JOIN noisings n ON n.image = w.image LEFT JOIN batches b ON b.id = n.batch "
            "GROUP BY w.row)",
            mu,
        )
        return math.sqrt(most or 0.0)

    def most_images_of_a_person(self) -> int:
        """Return how many images of one person will ever have been released, with those of the request."""
        (most,) = self._one(
            "SELECT MAX(count) FROM (SELECT COUNT(*) AS count FROM ("
            "SELECT person, key FROM shown JOIN images ON images.id = shown.image "
            "UNION SELECT person, key FROM wanted WHERE person IS NOT NULL) GROUP BY person)"
        )
        return int(most or 0)

    def images_of_unknown_persons(self) -> int:
        """Return how many images were released of which neither ledger nor request says who is shown."""
        (count,) = self._one(
            "SELECT COUNT(*) FROM images WHERE id NOT IN (SELECT image FROM shown) "
            "AND key NOT IN (SELECT key FROM wanted WHERE person IS NOT NULL)"
        )
        return int(count)

    # -- up to now ----------------------------------------------------------------------------------------

    def of_release(self, release: int) -> Spent:
        """Return the most that was spent on one image of a release, by any noisings."""
        noisings, most = self._one(
            f"SELECT MAX(count), MAX(spent) FROM (SELECT {_charges('m.image')} "
            "FROM members m JOIN noisings n ON n.image = m.image JOIN batches b ON b.id = n.batch "
            "WHERE m.release = ? GROUP BY m.image)",
            release,
        )
        return Spent(int(noisings), math.sqrt(most))

    def of_all(self) -> Spent:
        """Return the most that was spent on one image of all."""
        noisings, most = self._one(
            f"SELECT MAX(count), MAX(spent) FROM (SELECT {_charges('n.image')} "
            "FROM noisings n JOIN batches b ON b.id = n.batch GROUP BY n.image)"
        )
        return Spent(int(noisings or 0), math.sqrt(most or 0.0))

    def of_persons(self) -> PersonSpent | None:
        """Return the most that was released of one person; None unless every image's person is known."""
        if self.losses.uncertain:
            return None
        (unknown,) = self._one("SELECT COUNT(*) FROM images WHERE id NOT IN (SELECT image FROM shown)")
        images, most = self._one(
            "SELECT MAX(count), MAX(spent) FROM (SELECT COUNT(DISTINCT s.image) AS count, "
            "SUM(b.mu * b.mu) AS spent FROM shown s JOIN noisings n ON n.image = s.image "
            "JOIN batches b ON b.id = n.batch GROUP BY s.person)"
        )
        return PersonSpent(int(images), math.sqrt(most)) if images and not unknown else None

    def images(self) -> int:
        """Return how many different images were ever noised."""
        return int(self._one("SELECT COUNT(*) FROM images")[0])

    def noise_kinds(self) -> set[str]:
        """Return which kinds of noise were ever drawn: ``secure``, ``seeded``."""
        return {
            json.loads(text)["noise"] for (text,) in self._connection.execute("SELECT text FROM settings")
        }

    def failed_batches(self, settings: str | None = None) -> list[int]:
        """Return the noisings whose health check failed and that the owner has not accepted."""
        rows = self._connection.execute(
            "SELECT b.id FROM batches b JOIN settings s ON s.id = b.settings WHERE b.healthy = 0 "
            "AND b.id NOT IN (SELECT batch FROM accepted) AND (?1 IS NULL OR s.text = ?1)",
            (settings,),
        )
        return [batch for (batch,) in rows]

    def health_of_release(self, release: int) -> list[str]:
        """Return the health reports (JSON) of the noisings that make up a release."""
        rows = self._connection.execute(
            "SELECT health FROM batches WHERE id IN (SELECT n.batch FROM releases r "
            "JOIN members m ON m.release = r.id JOIN noisings n ON n.image = m.image "
            "AND n.settings = r.settings AND n.integers IS NOT NULL WHERE r.id = ?) ORDER BY id",
            (release,),
        )
        return [health for (health,) in rows]

    def _one(self, sql: str, *values: Any) -> Any:
        return self._connection.execute(sql, values).fetchone()


def _charges(image: str) -> str:
    """Return SQL for the number of an image's noisings and the sum of their mu^2, lost ones too."""
    return (
        f"COUNT(*) + {lost_to(image, 'COUNT(*)')} AS count, "
        f"SUM(b.mu * b.mu) + {lost_to(image, _LOST_MU2)} AS spent"
    )
