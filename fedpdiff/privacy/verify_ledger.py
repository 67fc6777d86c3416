"""Whether the certificate of a release says what the ledger beside it says; only reads, and takes no lock."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.ledger import Ledger, read_ledger
from fedpdiff.privacy.ledger_entries import StoredRelease
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.release_facts import certify

_LEDGER = "ledger.sqlite"


def ledger_problems(store: Path, certificate: dict[str, Any]) -> list[str]:
    """Return what the ledger knows otherwise, in words; empty where there is no release store.

    Parameters
    ----------
    store
        The folder that holds the release folder: a client's release store, or any other.
    certificate
        With nothing wrong in itself.
    """
    if not (store / _LEDGER).is_file():
        missing = (store / "secret").exists()
        return (
            ["the ledger beside it is missing, so nobody knows how often images were noised"]
            if missing
            else []
        )
    try:
        with read_ledger(store / _LEDGER) as ledger:
            return _differences(ledger, certificate)
    except sqlite3.Error as error:
        return [f"the ledger beside it cannot be read ({type(error).__name__})"]
    except PrivacyError as error:
        return [f"the ledger beside it says otherwise: {error}"]


def _differences(ledger: Ledger, certificate: dict[str, Any]) -> list[str]:
    found = [release for release in ledger.releases() if _is_of(release, certificate)]
    if not found:
        return ["the ledger beside it knows no such release"]
    ceilings = Policy.simulation(certificate["policy"]["epsilon"], certificate["policy"]["delta"])
    settings = json.loads(found[0].settings)
    right = certify(found[0], settings, ledger.labels(found[0]), ledger.totals, ceilings)
    if right is None:
        return ["the ledger beside it says that the noise was seeded: NOT PRIVATE"]
    return [
        f"{key} is not what the ledger beside it says; ask for the release again to have it stated anew"
        for key in right
        if key != "checksum" and right[key] != certificate[key]
    ]


def _is_of(release: StoredRelease, certificate: dict[str, Any]) -> bool:
    mine = (release.sha256, release.labels_sha256, release.delta, release.duplicates, release.time)
    keys = ("sha256", "labels_sha256", "delta", "duplicates_dropped", "created")
    return mine == tuple(certificate[key] for key in keys)
