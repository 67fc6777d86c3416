"""What an attack's scores prove, with intervals that never flatter either side.

Scores are LOWER for members throughout. Rules (Carlini et al. 2022, "Membership inference attacks from first
principles", ask for the low false-positive rates):

* a threshold is never chosen on the scores that it is judged by;
* a true-positive rate is stated at a threshold whose realised false-positive rate does not exceed the nominal
  one, and only where at least ten false positives are allowed: otherwise it is not meaningful, and no number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fedpdiff.errors import DataError

CONFIDENCE = 0.95
FALSE_POSITIVE_RATES = (0.01, 0.001)
ENOUGH_FALSE_POSITIVES = 10
"""Fewest allowed false positives for which a true-positive rate means anything: 1,000 non-members at 1 %."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A share or a probability with its confidence interval.

    Attributes
    ----------
    value, low, high
        All in 0 .. 1, ``low <= value <= high``.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TruePositives:
    """The share of members recognised at a small rate of false alarms.

    Attributes
    ----------
    nominal_fpr
        The false-positive rate asked for.
    fpr
        The realised one, at most ``nominal_fpr``.
    rate
        True-positive rate with its exact interval; ``None``: not meaningful, too few non-members.
    """

    nominal_fpr: float
    fpr: float
    rate: Rate | None


@dataclass(frozen=True)
class MembershipReport:
    """How well scores tell members from non-members.

    Attributes
    ----------
    auc
        Area under the ROC curve with DeLong's interval; 0.5 is guessing.
    balanced_accuracy
        Mean of true-positive and true-negative rate at a threshold chosen on other scores; 0.5 is guessing.
    true_positives
        One entry for each of :data:`FALSE_POSITIVE_RATES`.
    members, non_members
        How many scores the numbers rest on.
    """

    auc: Rate
    balanced_accuracy: float
    true_positives: tuple[TruePositives, ...]
    members: int
    non_members: int


def exact_rate(successes: int, trials: int, confidence: float = CONFIDENCE) -> Rate:
    """Return a share with its Clopper-Pearson interval.

    Raises
    ------
    DataError
        When there is no trial.
    """
    if trials < 1:
        raise DataError("a rate needs at least one trial; the attack had nothing to try")
    low, high = stats.binomtest(successes, trials).proportion_ci(confidence, "exact")
    return Rate(successes / trials, float(low), float(high))


def area_under_curve(members: ArrayLike, non_members: ArrayLike, confidence: float = CONFIDENCE) -> Rate:
    """Return the chance that a member scores below a non-member, ties counted half, with an interval.

    The interval is DeLong's (DeLong, DeLong & Clarke-Pearson 1988), cut to 0 .. 1. Where its variance
    vanishes (all pairs in the same order) the exact binomial interval of as many disjoint pairs as there are
    takes its place: each of them is an independent trial with success probability AUC.

    Parameters
    ----------
    members, non_members
        Scores, at least two on each side, lower for members.

    Raises
    ------
    DataError
        When a score is not finite or a side has fewer than two.
    """
    positive, negative = _checked(members), _checked(non_members)
    m, n = len(positive), len(negative)
    ranks = stats.rankdata(np.concatenate([-positive, -negative]))
    # Placement values: each member's share of non-members above it, each non-member's of members below it.
    by_member = (ranks[:m] - stats.rankdata(-positive)) / n
    by_non_member = 1 - (ranks[m:] - stats.rankdata(-negative)) / m
    auc = float(by_member.mean())
    variance = by_member.var(ddof=1) / m + by_non_member.var(ddof=1) / n
    if variance == 0:
        pairs = min(m, n)
        exact = exact_rate(round(auc * pairs), pairs, confidence)
        return Rate(auc, min(auc, exact.low), max(auc, exact.high))
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * math.sqrt(variance)
    return Rate(auc, max(0.0, auc - reach), min(1.0, auc + reach))


def true_positives_at(
    members: ArrayLike, non_members: ArrayLike, nominal_fpr: float, confidence: float = CONFIDENCE
) -> TruePositives:
    """Return the true-positive rate at a threshold with at most ``nominal_fpr`` false positives.

    With k = floor(fpr n) allowed false positives, accepted is what scores strictly below the (k + 1)-th
    smallest score of the n non-members: at most k of them, however many tie.
    """
    positive, negative = _checked(members), np.sort(_checked(non_members))
    allowed = math.floor(nominal_fpr * len(negative) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    threshold = negative[allowed] if allowed < len(negative) else math.inf
    fpr = float((negative < threshold).mean())
    if allowed < ENOUGH_FALSE_POSITIVES:
        return TruePositives(nominal_fpr, fpr, None)
    hits = int((positive < threshold).sum())
    return TruePositives(nominal_fpr, fpr, exact_rate(hits, len(positive), confidence))


def best_threshold(members: ArrayLike, non_members: ArrayLike) -> float:
    """Return the score t for which "member if score <= t" is right most often, both sides weighing alike."""
    positive, negative = np.sort(_checked(members)), np.sort(_checked(non_members))
    thresholds = np.unique(np.concatenate([positive, negative]))
    caught = np.searchsorted(positive, thresholds, side="right") / len(positive)
    alarms = np.searchsorted(negative, thresholds, side="right") / len(negative)
    return float(thresholds[np.argmax(caught - alarms)])


def balanced_accuracy(members: ArrayLike, non_members: ArrayLike, threshold: float) -> float:
    """Return the mean of true-positive and true-negative rate of "member if score <= threshold"."""
    positive, negative = _checked(members), _checked(non_members)
    return float(((positive <= threshold).mean() + (negative > threshold).mean()) / 2)


def membership_report(
    members: ArrayLike,
    non_members: ArrayLike,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    confidence: float = CONFIDENCE,
) -> MembershipReport:
    """Judge one attack's scores.

    Parameters
    ----------
    members, non_members
        Scores in random order, lower for members.
    validation
        Scores of other members and non-members, which choose the threshold of the balanced accuracy. Without
        them every second score chooses for the others, both ways round, and the two accuracies are averaged.

    Raises
    ------
    DataError
        When a score is not finite or a side has too few (two; four without ``validation``).
    """
    positive, negative = _checked(members), _checked(non_members)
    if validation is not None:
        accuracy = balanced_accuracy(positive, negative, best_threshold(*validation))
    else:
        accuracy = _cross_fitted_accuracy(positive, negative)
    return MembershipReport(
        auc=area_under_curve(positive, negative, confidence),
        balanced_accuracy=accuracy,
        true_positives=tuple(
            true_positives_at(positive, negative, fpr, confidence) for fpr in FALSE_POSITIVE_RATES
        ),
        members=len(positive),
        non_members=len(negative),
    )


def roc_curve(
    members: ArrayLike, non_members: ArrayLike, points: int = 200
) -> tuple[list[float], list[float]]:
    """Return false- and true-positive rates of the curve, at most about ``points`` of each, for a figure.

    Evenly spaced in rank at first and then in logarithm, so that a logarithmic axis is covered too.
    """
    positive, negative = np.sort(_checked(members)), np.sort(_checked(non_members))
    n = len(negative)
    counts = np.unique(
        np.round(np.concatenate([np.linspace(0, n, points // 2), np.geomspace(1, n, points // 2)]))
    )
    edges = np.concatenate([negative, [math.inf]])[counts.astype(np.int64)]
    false = np.searchsorted(negative, edges, side="left") / n  # ties: what is really accepted
    true = np.searchsorted(positive, edges, side="left") / len(positive)
    return false.tolist(), true.tolist()


def _cross_fitted_accuracy(positive: Scores, negative: Scores) -> float:
    if min(len(positive), len(negative)) < 4:
        raise DataError(
            f"{len(positive)} members and {len(negative)} non-members: at least 4 of each are needed to "
            "choose a threshold on one half and judge it on the other"
        )
    halves = [(positive[i::2], negative[i::2]) for i in (0, 1)]
    accuracies = [balanced_accuracy(*halves[1 - i], best_threshold(*halves[i])) for i in (0, 1)]
    return sum(accuracies) / 2


def _checked(scores: ArrayLike) -> Scores:
    values = np.asarray(scores, np.float64).ravel()
    if len(values) < 2:
        raise DataError(f"{len(values)} scores: an attack needs at least 2 members and 2 non-members")
    if not np.isfinite(values).all():
        raise DataError(
            "an attack's score is not finite: the attacked model overflows, or the attack is wrong"
        )
    return values
