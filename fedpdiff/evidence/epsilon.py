"""Epsilon as measured: by auditing the release code with the run's mechanism, and by attacking its uploads.

The audit releases the pair of images that is easiest to tell apart, so it comes close to the theory from
both sides. An attack on real uploads bounds epsilon from below only, and far below: real images are more
alike than the worst pair, and the attacker does not know where an image's upload is.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpdiff.attack_results import Epsilon
from fedpdiff.evidence.artefacts import Mechanism
from fedpdiff.evidence.report import Say, quiet
from fedpdiff.privacy.accountant import epsilon_from_mu, round_up
from fedpdiff.privacy.audit import ERROR, audit
from fedpdiff.privacy.audit_bounds import epsilon_at_least, mu_interval
from fedpdiff.privacy.request import ReleaseRequest

AUDIT, ATTACK = "audit of the release code", "membership attack on the uploads"
GAUSSIAN, FREE = "if the noise is Gaussian", "nothing assumed"
_PER_SIDE = 10_000
_QUANTILES = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75)


def audited(mechanism: Mechanism, say: Say = quiet) -> tuple[list[Epsilon], list[str]]:
    """Audit the release code with this mechanism around mid-grey; return intervals and problems.

    The guarantee does not depend on the centre. Where C is larger than any image around mid-grey, the
    largest norm that there is takes its place.
    """
    say("audit", 0, 1)
    largest = math.sqrt(mechanism.centre.size)
    request = ReleaseRequest(
        t0=mechanism.t0,
        alpha_bar=mechanism.alpha_bar,
        clip=min(mechanism.clip, largest),
        centre=np.zeros_like(mechanism.centre),
        schedule=mechanism.schedule.name,
        diffusion_steps=mechanism.schedule.steps,
        delta=mechanism.delta,
        noise="secure",
    )
    with tempfile.TemporaryDirectory() as folder:
        report = audit(request, _PER_SIDE, Path(folder))
    say("audit", 1, 1)
    low, high = report.epsilon_interval
    theory = report.promised["epsilon"]
    found = [
        Epsilon(
            source=AUDIT,
            assumption=GAUSSIAN,
            theory=theory,
            low=low,
            high=high if math.isfinite(high) else None,
            confidence=1 - ERROR,
        ),
        Epsilon(
            source=AUDIT,
            assumption=FREE,
            theory=theory,
            low=report.epsilon_at_least,
            high=None,
            confidence=1 - ERROR,
        ),
    ]
    return found, list(report.problems)


def from_membership(
    members: NDArray[np.float64], non_members: NDArray[np.float64], mechanism: Mechanism
) -> list[Epsilon]:
    """Return the least epsilon that explains how well an attack tells members from non-members.

    The success rates of one threshold are averages over images, and the trade-off curve that bounds them is
    concave, so they obey it as well. The thresholds are quantiles of every second score and judged on the
    others; scores are lower for members and in random order.
    """
    first, second = -non_members[1::2], -members[1::2]
    thresholds = np.unique(np.quantile(-non_members[::2], [1 - q for q in _QUANTILES])).tolist()
    low, _ = mu_interval(first, second, thresholds, ERROR)
    free = epsilon_at_least(first, second, thresholds, mechanism.delta, ERROR)
    least = epsilon_from_mu(max(0.0, low), mechanism.delta) if math.isfinite(low) else None
    theory = round_up(epsilon_from_mu(mechanism.mu, mechanism.delta))
    return [
        Epsilon(
            source=ATTACK, assumption=assumption, theory=theory, low=value, high=None, confidence=1 - ERROR
        )
        for assumption, value in ((GAUSSIAN, least), (FREE, free))
    ]
