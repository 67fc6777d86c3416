from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from fedpdiff.privacy.certificate_digests import wire_digests
from fedpdiff.privacy.certificate_facts import LedgerFacts, PolicyCeilings, ReleaseFacts, SelfTest
from fedpdiff.privacy.request import ReleaseRequest
from fedpdiff.privacy.verify import class_counts

# How fast a busy machine is proves nothing: no example has a deadline, and slowness is no finding.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

CREATED = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def facts_of() -> Callable[..., ReleaseFacts]:
    """Return ``facts_of(request, integers, labels, created=...)``: an honest release's, changed."""
    return honest_facts


def honest_facts(
    request: ReleaseRequest, integers: np.ndarray, labels: np.ndarray, **changes: Any
) -> ReleaseFacts:
    facts = ReleaseFacts(
        **request.noising(),
        delta=request.delta,
        class_counts=class_counts(labels),
        sha256=hashlib.sha256(integers.tobytes()).hexdigest(),
        labels_sha256=hashlib.sha256(labels.tobytes()).hexdigest(),
        wire=wire_digests(integers, labels),
        ledger=LedgerFacts(1, request.mu, 0),
        policy=PolicyCeilings(1e6, request.delta),
        persons=None,
        self_test=SelfTest(True, ("too weak in total",), 1e-12),
        created=CREATED,
        software="fedpdiff 0.1.0",
    )
    return dataclasses.replace(facts, **changes)
