"""What may be told about a release: mechanism, settings, counts, hashes, and what it guarantees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.certificate_words import MECHANISM
from fedpdiff.privacy.ledger_entries import StoredRelease
from fedpdiff.privacy.statement import privacy_statement

FORMAT = "fedpdiff-release/2"
NOT_PRIVATE = "NOT PRIVATE: seeded noise, for simulation only"


def check_manifest_format(found: object) -> None:
    """Refuse a manifest of another version.

    Raises
    ------
    PrivacyError
        Naming its format.
    """
    if found != FORMAT:
        raise PrivacyError(
            f"the release has the format {str(found)[:40]!r}, but this version reads {FORMAT!r}: make it "
            "again from its ledger with this version, or use the one that wrote it"
        )


def same_bytes(release: StoredRelease, manifest: dict[str, Any]) -> bool:
    """Return whether a manifest describes the arrays of a release in the ledger."""
    return (release.sha256, release.labels_sha256) == (manifest.get("sha256"), manifest.get("labels_sha256"))


def make_manifest(
    release: StoredRelease, settings: dict[str, Any], labels: NDArray[np.int64]
) -> dict[str, Any]:
    """Return what may be told about a release.

    Parameters
    ----------
    release
        From the ledger.
    settings
        Its settings, read.
    labels
        Of its rows.
    """
    classes, counts = np.unique(labels, return_counts=True)
    manifest = {
        "format": FORMAT,
        "mechanism": MECHANISM,
        **settings,
        "delta": release.delta,
        "privacy": privacy_statement(
            settings["alpha_bar"], settings["clip"], release.delta, settings["t0"], settings["schedule"]
        ),
        "shape": [len(labels), *settings["image_shape"]],
        "class_counts": {str(label): int(count) for label, count in zip(classes, counts, strict=True)},
        "duplicates_dropped": release.duplicates,
        "sha256": release.sha256,
        "labels_sha256": release.labels_sha256,
        "created": release.time,
        "software": release.software,
    }
    return manifest if settings["noise"] == "secure" else {"stamp": NOT_PRIVATE, **manifest}
