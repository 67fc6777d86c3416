"""The certificate of a release: what it guarantees, in numbers that follow from its settings alone.

A certificate is a function of :class:`ReleaseFacts`. Whoever holds one takes the facts out of it, makes it
again and compares (:mod:`fedpdiff.privacy.certificate_check`), so that nothing in it can be overstated
without contradicting the rest. It is a statement, not a signature: that a release was made as its certificate
says rests on the code that made both.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import certificate_words as words
from fedpdiff.privacy.accountant import epsilon_from_mu, round_up
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.statement import attack_ceilings, privacy_statement
from fedpdiff.privacy.wire import WIRE_BITS, codes
from fedpdiff.schedule import NoiseSchedule

PERSON_IMAGES = (1, 2, 5, 10, 50)
LARGEST_FALSE_ALARM = 1e-6  # of the self-test; it adds to delta
_TOLERANCE = 1e-9  # of sums and schedules that another machine rounds otherwise; far below what is printed

Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Chance = Annotated[float, Field(gt=0, lt=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class LedgerFacts:
    """What the ledger says of the release's images, counting every noising, whatever became of it.

    Parameters
    ----------
    noisings
        The most of one image.
    mu_total
        The largest sqrt(sum mu^2) of one image.
    duplicates_dropped
        Rows of the data set that are not released because an exact copy is.
    """

    noisings: Count
    mu_total: Positive
    duplicates_dropped: Annotated[int, Field(ge=0, le=10**9)]


@dataclass(frozen=True)
class PolicyCeilings:
    """What the site allows for one image, over all its noisings."""

    epsilon: Positive
    delta: Chance


@dataclass(frozen=True)
class PersonFacts:
    """The most that was ever released of one person: images, and sqrt(sum mu^2) over all their noisings."""

    images: Count
    mu: Positive


@dataclass(frozen=True)
class SelfTest:
    """The health checks of the noisings that make up a release.

    Parameters
    ----------
    ok
        Whether every one passed.
    tests
        What they looked for.
    false_alarm
        Chance that sound noise fails one check: what checking costs, added to delta (at most 1e-6).
    """

    ok: bool
    tests: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)]
    false_alarm: Annotated[float, Field(ge=0, le=LARGEST_FALSE_ALARM)]

    @classmethod
    def of(cls, reports: Sequence[Mapping[str, Any]]) -> SelfTest | None:
        """Sum up reports, each as ``HealthReport.to_dict`` gives it; None when there is none."""
        if not reports:
            return None
        common = set[str].intersection(*(set(report["tests"]) for report in reports))
        return cls(
            ok=all(report["ok"] is True for report in reports),
            tests=tuple(test for test in reports[0]["tests"] if test in common),
            false_alarm=max(float(report["false_alarm"]) for report in reports),
        )


@dataclass(frozen=True)
class ReleaseFacts:
    """Everything that a certificate follows from.

    Parameters
    ----------
    t0, alpha_bar, clip, centre_sha256, schedule, diffusion_steps, noise, image_shape, preprocessing
        As :meth:`ReleaseRequest.noising` returns them: ``ReleaseFacts(**request.noising(), ...)``.
        ``alpha_bar`` must be the schedule's own at ``t0`` (to 1e-9).
    delta
        At which epsilon is stated.
    class_counts
        Images per class that has any, by the class number as text.
    sha256, labels_sha256
        Of the exact arrays, int16 (N, C, H, W) and int64 (N,), in their order on disk.
    wire
        :func:`wire_digests` of both.
    ledger, self_test
        None when there is none: then there is no certificate either.
    policy
        The site's ceilings.
    persons
        None unless the site counts who is shown.
    created
        ISO 8601 in UTC, to the second.
    software
        Name and version of what made the release.
    """

    t0: Annotated[int, Field(ge=1, le=100_000)]
    alpha_bar: Chance
    clip: Positive
    centre_sha256: Sha256
    schedule: Literal["linear", "cosine"]
    diffusion_steps: Annotated[int, Field(ge=1, le=100_000)]
    noise: Literal["secure", "seeded"]
    image_shape: Annotated[Sequence[Count], Field(min_length=3, max_length=3)]
    preprocessing: Annotated[str, Field(max_length=1000)]
    delta: Chance
    class_counts: Annotated[
        Mapping[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")], Count], Field(min_length=1)
    ]
    sha256: Sha256
    labels_sha256: Sha256
    wire: Annotated[Mapping[Literal["8", "4", "2"], Sha256], Field(min_length=3)]
    ledger: LedgerFacts | None
    policy: PolicyCeilings
    persons: PersonFacts | None
    self_test: SelfTest | None
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
    software: Annotated[str, Field(min_length=1, max_length=200)]


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


def schedule_digest(name: str, steps: int) -> str:
    """Return the SHA-256 of abar_0 .. abar_T as little-endian float32.

    Single precision, because the last bits of double precision differ between machines.
    """
    alpha_bar = NoiseSchedule(name, steps).alpha_bar
    return hashlib.sha256(alpha_bar.astype("<f4").tobytes()).hexdigest()


def wire_digests(integers: Iterable[NDArray[np.int16]], labels: NDArray[np.int64]) -> dict[str, str]:
    """Return, for each width of the wire, the SHA-256 of what is sent, however it is divided into shards.

    Parameters
    ----------
    integers
        The release in the order of its rows: an array (N, C, H, W), or parts of it one after the other.
    labels
        int64, shape (N,), in the same order.

    Returns
    -------
    dict
        ``"8"``, ``"4"`` and ``"2"``: hash of one byte per value (its code, unpacked), then the labels.
    """
    digests = {bits: hashlib.sha256() for bits in WIRE_BITS}
    for part in integers:
        for bits, digest in digests.items():
            digest.update(codes(np.asarray(part), bits))
    for digest in digests.values():
        digest.update(np.ascontiguousarray(labels, "<i8"))
    return {str(bits): digest.hexdigest() for bits, digest in digests.items()}


def checksum(certificate: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything else in a certificate: it finds damage, but is no signature."""
    rest = {key: value for key, value in certificate.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
