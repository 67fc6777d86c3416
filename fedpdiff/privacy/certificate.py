"""The certificate of a release: what it guarantees, in numbers that follow from its settings alone.

A certificate is a function of :class:`ReleaseFacts`. Whoever holds one takes the facts out of it, makes it
again and compares (:mod:`fedpdiff.privacy.certificate_check`), so that nothing in it can be overstated
without contradicting the rest. It is a statement, not a signature: that a release was made as its certificate
says rests on the code that made both.
"""

from __future__ import annotations

import math
from typing import Any

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import certificate_words as words
from fedpdiff.privacy.accountant import epsilon_from_mu, round_up
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.certificate_digests import checksum, schedule_digest
from fedpdiff.privacy.certificate_facts import LedgerFacts, ReleaseFacts
from fedpdiff.privacy.statement import attack_ceilings, privacy_statement
from fedpdiff.schedule import NoiseSchedule

PERSON_IMAGES = (1, 2, 5, 10, 50)
_TOLERANCE = 1e-9  # of sums and schedules that another machine rounds otherwise; far below what is printed


def make_certificate(facts: ReleaseFacts) -> dict[str, Any]:
    """Return the certificate of a release, as JSON values; the same facts give the same certificate.

    Raises
    ------
    PrivacyError
        When the release must not have one: seeded noise, no ledger, no self-test or a failed one, a ceiling
        of the policy exceeded, or facts that contradict each other (such as ``alpha_bar`` and ``t0``).
    """
    problems = fact_problems(facts)
    if problems:
        raise PrivacyError(f"no certificate is made: {'; '.join(problems)}")
    return document(facts)


def fact_problems(facts: ReleaseFacts) -> list[str]:
    """Return, in words, why a release with these facts has no certificate; empty when nothing is wrong."""
    if facts.noise != "secure":
        return [f"the noise is {facts.noise}, for simulation only, and can be taken off: NOT PRIVATE"]
    if facts.ledger is None:
        return ["there is no ledger, so nobody knows how often these images were noised"]
    if facts.self_test is None or not facts.self_test.ok:
        return ["the noise was not tested, or failed its test"]
    return [
        *_schedule_problems(facts),
        *_ledger_problems(facts, facts.ledger),
        *_policy_problems(facts, facts.ledger),
    ]


def _schedule_problems(facts: ReleaseFacts) -> list[str]:
    if facts.t0 > facts.diffusion_steps:
        return [f"t0 = {facts.t0} is above the {facts.diffusion_steps} steps of the schedule"]
    right = float(NoiseSchedule(facts.schedule, facts.diffusion_steps).alpha_bar[facts.t0])
    if not math.isclose(facts.alpha_bar, right, rel_tol=_TOLERANCE):
        return [
            f"alpha_bar is {facts.alpha_bar!r}, but after t0 = {facts.t0} of {facts.diffusion_steps} steps "
            f"of the {facts.schedule} schedule it is {right!r}"
        ]
    return []


def _ledger_problems(facts: ReleaseFacts, ledger: LedgerFacts) -> list[str]:
    mu, problems = mu_of(facts.alpha_bar, facts.clip), []
    if ledger.mu_total < mu * (1 - _TOLERANCE):
        problems.append(f"mu_total is {ledger.mu_total!r}, but this release alone has mu {mu!r}")
    if ledger.noisings == 1 and ledger.mu_total > mu * (1 + _TOLERANCE):
        problems.append(f"mu_total is {ledger.mu_total!r} after one noising, but that has mu {mu!r}")
    if facts.persons is not None and facts.persons.mu < ledger.mu_total * (1 - _TOLERANCE):
        problems.append(
            f"the mu of one person is {facts.persons.mu!r}, below mu_total {ledger.mu_total!r} of one image"
        )
    return problems


def _policy_problems(facts: ReleaseFacts, ledger: LedgerFacts) -> list[str]:
    problems = []
    if facts.delta > facts.policy.delta:
        problems.append(f"delta {facts.delta!r} is above the policy's ceiling {facts.policy.delta!r}")
    epsilon = epsilon_from_mu(ledger.mu_total, facts.delta)
    if epsilon > facts.policy.epsilon * (1 + _TOLERANCE):
        problems.append(
            f"epsilon {epsilon:.6g}, of all noisings of an image, is above the policy's ceiling "
            f"{facts.policy.epsilon!r}"
        )
    return problems


def document(facts: ReleaseFacts) -> dict[str, Any]:
    """Return the certificate that follows from facts in which :func:`fact_problems` finds nothing wrong."""
    if facts.ledger is None or facts.self_test is None:
        raise PrivacyError("a certificate needs a ledger and a self-test")
    base = privacy_statement(facts.alpha_bar, facts.clip, facts.delta, facts.t0, facts.schedule)
    images = sum(facts.class_counts.values())
    mu_total = base["mu"] if facts.ledger.noisings == 1 else facts.ledger.mu_total
    composition = _composition(facts.ledger, mu_total, facts.delta)
    certificate = {
        "statement": words.statement(
            images,
            base["epsilon"],
            facts.delta,
            facts.self_test.false_alarm,
            facts.ledger.noisings,
            composition["epsilon_total"],
        ),
        "format": words.FORMAT,
        **base,
        "trust": words.TRUST,
        "mechanism": words.MECHANISM,
        "sensitivity": 2 * facts.clip,
        "noise_to_signal": math.sqrt((1 - facts.alpha_bar) / facts.alpha_bar),
        "noise": dict(words.NOISE),
        "diffusion_steps": facts.diffusion_steps,
        "schedule_sha256": schedule_digest(facts.schedule, facts.diffusion_steps),
        "centre_sha256": facts.centre_sha256,
        "preprocessing": facts.preprocessing,
        "composition": composition,
        "per_person": {str(g): _epsilon(mu_total * math.sqrt(g), facts.delta) for g in PERSON_IMAGES},
        "persons": _persons(facts),
        "policy": {"epsilon": facts.policy.epsilon, "delta": facts.policy.delta},
        "disclosed_in_clear": list(words.DISCLOSED_IN_CLEAR),
        "not_protected": list(words.NOT_PROTECTED),
        "self_test": {
            "noise_health": "ok",
            "tests": list(facts.self_test.tests),
            "added_delta": facts.self_test.false_alarm,
        },
        "n_images": images,
        "class_counts": dict(facts.class_counts),
        "image_shape": list(facts.image_shape),
        "duplicates_dropped": facts.ledger.duplicates_dropped,
        "sha256": facts.sha256,
        "labels_sha256": facts.labels_sha256,
        "wire": dict(facts.wire),
        "created": facts.created,
        "software": facts.software,
    }
    return certificate | {"checksum": checksum(certificate)}


def _epsilon(mu: float, delta: float) -> float:
    return round_up(epsilon_from_mu(mu, delta))


def _composition(ledger: LedgerFacts, mu_total: float, delta: float) -> dict[str, Any]:
    return {
        "noisings_per_image": ledger.noisings,
        "mu_total": mu_total,
        "epsilon_total": _epsilon(mu_total, delta),
        "attack_ceilings": attack_ceilings(mu_total),
    }


def _persons(facts: ReleaseFacts) -> dict[str, Any] | None:
    if facts.persons is None:
        return None
    return {
        "most_images": facts.persons.images,
        "mu": facts.persons.mu,
        "epsilon": _epsilon(facts.persons.mu, facts.delta),
    }
