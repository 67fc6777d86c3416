"""Attack the real release code with the pair of images that is easiest to tell apart, and measure epsilon.

An all-black and an all-white image are clipped to -C u and +C u: as far apart as two images can be, so the
guarantee is tight for them. The score <release, u> is the best there is (Neyman & Pearson). What the audit
measures goes through the entry point that writes the upload; what it compares with is computed from the
settings here, independently of the code that makes releases.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.audit_bounds import epsilon_at_least, mu_interval, one_run_epsilon
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.mechanism import decode_integers
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import Release, ReleaseStore
from fedpdiff.privacy.request import ReleaseRequest
from fedpdiff.privacy.statement import privacy_statement
from fedpdiff.types import LabelledImages

ERROR = 1e-3  # of the interval, and of the bound that assumes nothing
ONE_RUN_ERROR = 0.05  # usual for this bound, which pays 2 N delta for each error rate
LEAST_PER_SIDE = 100
_EXPECTED_ERRORS = (10, 30, 100, 300)  # false positives aimed at by the thresholds of the free bound
_NO_LIMIT = 1e12  # the audit's own policy must not stop broken code from being measured


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Parameters
    ----------
    promised
        :func:`~fedpdiff.privacy.statement.privacy_statement` of the settings.
    counts
        Number of black and of white images.
    mu_interval
        Holds mu with probability 99.9 %, if the noise is Gaussian; the upper end may be infinite.
    epsilon_at_least
        Bound that assumes nothing about the noise, limited by the number of images; holds with 99.9 %.
    one_run_epsilon
        Bound by one run's guesses, limited likewise; holds with 95 %.
    problems
        In words; empty when the release code keeps its promise.
    """

    promised: dict[str, Any]
    counts: tuple[int, int]
    mu_interval: tuple[float, float]
    epsilon_at_least: float
    one_run_epsilon: float
    problems: tuple[str, ...]

    @property
    def epsilon_interval(self) -> tuple[float, float]:
        """The interval of mu as epsilon, at the promised delta."""
        low, high = self.mu_interval
        delta = self.promised["delta"]
        return (
            epsilon_from_mu(max(0.0, low), delta),
            epsilon_from_mu(max(0.0, high), delta) if high < math.inf else math.inf,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; an end that could not be bounded is None."""
        finite = lambda ends: [end if abs(end) < math.inf else None for end in ends]  # noqa: E731
        return {
            "ok": not self.problems,
            "problems": list(self.problems),
            "promised": self.promised,
            "black_images": self.counts[0],
            "white_images": self.counts[1],
            "confidence": 1 - ERROR,
            "confidence_one_run": 1 - ONE_RUN_ERROR,
            "mu_interval": finite(self.mu_interval),
            "epsilon_interval": finite(self.epsilon_interval),
            "epsilon_at_least_without_assumptions": self.epsilon_at_least,
            "epsilon_at_least_one_run": self.one_run_epsilon,
        }


def alpha_bar_by_definition(schedule: str, steps: int, t0: int) -> float:
    """Return the product of 1 - beta over the first t0 steps, from the schedule's published definition.

    Linear: Ho et al. 2020, section 4; cosine: Nichol & Dhariwal 2021, equation 17. Written a second time so
    that an error in the schedule, or in which of its levels is used, shows.

    Raises
    ------
    PrivacyError
        For another schedule.
    """
    if schedule == "linear":
        return math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / max(1, steps - 1)) for i in range(t0))
    if schedule == "cosine":
        curve = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(t0 + 1)]
        return math.prod(max(after / before, 1e-3) for before, after in itertools.pairwise(curve))
    raise PrivacyError(f"schedule = {schedule!r} cannot be audited: must be linear or cosine")


def audit(request: ReleaseRequest, per_side: int, folder: Path) -> AuditReport:
    """Release black and white images through the real code and bound what they reveal.

    Parameters
    ----------
    request
        With a centre of zeros and clip at most sqrt(C H W), so that both images reach the ball's surface.
    per_side
        Images of each kind, at least 100; each is black or white by a fair coin.
    folder
        Empty; the state folder of a client that exists only for the audit.

    Raises
    ------
    PrivacyError
        When the settings make no worst pair, or the release code refuses, for example because its noise
        fails the health check.
    """
    dimensions = _check_arguments(request, per_side)
    promised = privacy_statement(
        alpha_bar_by_definition(request.schedule, request.diffusion_steps, request.t0),
        request.clip,
        request.delta,
        request.t0,
        request.schedule,
    )
    private = _pair(request.centre.shape, per_side)
    release = _release(request, private, folder)
    retried = _release(request, private, folder)
    white = release.labels == 1
    scores = _scores(release.integers, dimensions) / math.sqrt(1 - promised["alpha_bar"])
    problems = [*_repetitions(release, retried), *_missing(release, private)]
    return _report(promised, scores, white, per_side, problems)


def _check_arguments(request: ReleaseRequest, per_side: int) -> int:
    if per_side < LEAST_PER_SIDE:
        raise PrivacyError(f"n is {per_side}, but an audit needs at least {LEAST_PER_SIDE} images a side")
    if request.centre.any() or request.noise != "secure":
        raise PrivacyError("an audit needs a centre of zeros and secure noise")
    dimensions = math.prod(request.centre.shape)
    if not request.clip <= math.sqrt(dimensions):
        raise PrivacyError(
            f"clip is {request.clip:g}, but images of shape {tuple(request.centre.shape)} only reach a norm "
            f"of {math.sqrt(dimensions):.4g}: no pair lies 2 C apart; audit a clip of at most that"
        )
    return dimensions


def _pair(shape: tuple[int, ...], per_side: int) -> PrivateImages:
    """Return black (class 0) and white (class 1) images, each by a fair coin, passing for different ones."""
    import torch  # here, because the accounting must be quick to import

    count = 2 * per_side
    coins = np.unpackbits(np.frombuffer(SecureNoise().read(-(-count // 8)), np.uint8))[:count]
    labels = torch.from_numpy(coins.astype(np.int64))
    images = (255 * labels).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, *shape)
    digests = [hashlib.sha256(b"image %d of an audit" % i).digest() for i in range(count)]
    return PrivateImages(LabelledImages(images, labels), digests)


def _release(request: ReleaseRequest, private: PrivateImages, folder: Path) -> Release:
    """Ask a new store for the release, as a client does that was started again."""
    store = ReleaseStore(folder, Policy.simulation(_NO_LIMIT, request.delta))
    return store.get_or_make(request, private, SecureNoise())


def _scores(integers: NDArray[np.int16], dimensions: int) -> NDArray[np.float64]:
    """Return <release, u> with u the direction from black to white."""
    parts = [
        decode_integers(integers[start : start + 4096]).reshape(-1, dimensions).sum(axis=1, dtype=np.float64)
        for start in range(0, len(integers), 4096)
    ]
    return np.concatenate(parts) / math.sqrt(dimensions)


def _repetitions(release: Release, retried: Release) -> list[str]:
    problems = []
    if not (
        np.array_equal(release.integers, retried.integers) and np.array_equal(release.labels, retried.labels)
    ):
        problems.append("asked again, the code made a second release: every retry spends the budget again")
    rows = {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in release.integers}
    if len(rows) < len(release.integers):
        problems.append("two images were released with the same noise: their difference shows without noise")
    return problems


def _missing(release: Release, private: PrivateImages) -> list[str]:
    sent = np.bincount(release.labels, minlength=2)
    given = np.bincount(private.images.labels.numpy(), minlength=2)
    return [] if np.array_equal(sent, given) else ["the release does not hold every image once"]


def _report(
    promised: dict[str, Any],
    scores: NDArray[np.float64],
    white: NDArray[np.bool_],
    per_side: int,
    problems: list[str],
) -> AuditReport:
    """Compare scores, in standard deviations of the promised noise, with thresholds that it fixes."""
    mu, delta = promised["mu"], promised["delta"]
    first, second = scores[~white], scores[white]
    near = min(0.5, mu / 4)
    interval = mu_interval(first, second, (-near, 0.0, near), ERROR)
    far = [float(-mu / 2 - ndtri(errors / per_side)) for errors in _EXPECTED_ERRORS if 2 * errors < per_side]
    rate = min(0.25, _EXPECTED_ERRORS[1] / per_side)
    guesses = int(2 * per_side * min(1.0, rate + float(ndtr(ndtri(rate) + mu))))
    if interval[0] > mu:
        problems = [*problems, f"the release reveals more than promised: mu is at least {interval[0]:.4g}"]
    if interval[1] < mu:
        problems = [
            *problems,
            f"the release has less signal or more noise than promised: mu is at most {interval[1]:.4g}",
        ]
    return AuditReport(
        promised,
        (len(first), len(second)),
        interval,
        epsilon_at_least(first, second, far, delta, ERROR),
        one_run_epsilon(scores, white, guesses, delta, ONE_RUN_ERROR),
        tuple(problems),
    )
