"""From a release in the ledger to its certificate: its own facts, charges and ceilings as they are now."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpdiff.privacy.accountant import mu_from_epsilon
from fedpdiff.privacy.certificate import make_certificate
from fedpdiff.privacy.certificate_facts import (
    LedgerFacts,
    PersonFacts,
    PolicyCeilings,
    ReleaseFacts,
    SelfTest,
)
from fedpdiff.privacy.ledger_entries import StoredRelease
from fedpdiff.privacy.ledger_totals import Spent, Totals
from fedpdiff.privacy.policy import Policy


def certify(
    release: StoredRelease,
    settings: dict[str, Any],
    labels: NDArray[np.int64],
    totals: Totals,
    policy: Policy,
) -> dict[str, Any] | None:
    """Return the certificate of a release, with all that was spent on its images up to now.

    While the ledger is in doubt, that is taken to be all that the policy allows: lost noisings were checked
    against it as every other.

    Returns
    -------
    dict or None
        None for seeded noise, which guarantees nothing.

    Raises
    ------
    PrivacyError
        When the release must not have one.
    """
    if settings["noise"] != "secure":
        return None
    spent, persons = _spent(release, totals, policy), totals.of_persons()
    classes, counts = np.unique(labels, return_counts=True)
    return make_certificate(
        ReleaseFacts(
            **settings,
            delta=release.delta,
            class_counts={str(label): int(count) for label, count in zip(classes, counts, strict=True)},
            sha256=release.sha256,
            labels_sha256=release.labels_sha256,
            wire=json.loads(release.wire),
            ledger=LedgerFacts(spent.noisings, spent.mu, release.duplicates),
            policy=PolicyCeilings(policy.epsilon, policy.delta),
            persons=PersonFacts(persons.images, persons.mu) if persons else None,
            self_test=SelfTest.of([json.loads(report) for report in totals.health_of_release(release.id)]),
            created=release.time,
            software=release.software,
        )
    )


def _spent(release: StoredRelease, totals: Totals, policy: Policy) -> Spent:
    spent, doubt = totals.of_release(release.id), totals.losses.doubt
    if doubt is None:
        return spent
    ceiling = mu_from_epsilon(policy.epsilon, policy.delta)
    return Spent(spent.noisings + (doubt.missing or 1), max(spent.mu, ceiling))
