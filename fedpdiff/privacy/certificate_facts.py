"""The facts that a certificate follows from, with their types and ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

LARGEST_FALSE_ALARM = 1e-6  # of the self-test; it adds to delta

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
        :func:`~fedpdiff.privacy.certificate_digests.wire_digests` of both.
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
