"""From what attacks return to rows of ``attacks.json``, and how the progress of the attacks is told."""

from __future__ import annotations

from collections.abc import Callable

from numpy.typing import ArrayLike

from fedpdiff import attack_results as rows
from fedpdiff.attacks.statistics import MembershipReport, Rate, TruePositives, roc_curve
from fedpdiff.attacks.uploads import Proportion
from fedpdiff.privacy import ceilings
from fedpdiff.privacy.accountant import round_up

Say = Callable[[str, int, int], None]
"""``say(what, done, total)``: what is being done, and how far; ``total`` is at least 1."""


def quiet(what: str, done: int, total: int) -> None:
    """Say nothing."""


def interval(rate: Rate) -> rows.Interval:
    """Return a rate with its interval."""
    return rows.Interval(value=rate.value, low=rate.low, high=rate.high)


def share(found: Proportion) -> rows.Interval:
    """Return a proportion with its exact interval."""
    return interval(found.interval())


def upper(cap: float) -> float:
    """Return a cap rounded up to three decimals, as the privacy statement does, at most 1."""
    return min(1.0, round_up(cap))


def membership_row(
    report: MembershipReport,
    scores: tuple[ArrayLike, ArrayLike],
    attack: str,
    setting: str,
    target: str,
    client: str | None = None,
    mu: float | None = None,
    works: bool | None = None,
) -> rows.Membership:
    """Return one membership attack.

    Parameters
    ----------
    report, scores
        What it reached, and its scores of members and non-members, for the curve.
    attack, setting, target, client
        What was attacked, with what.
    mu
        Of the release, where the guarantee covers the target: gives the caps.
    works
        Whether the control of this attack was defeated; ``None`` where another control covers it.
    """
    fpr, tpr = roc_curve(*scores)
    return rows.Membership(
        target=target,
        client=client,
        protected=mu is not None,
        attack=attack,
        setting=setting,
        works=works,
        members=report.members,
        non_members=report.non_members,
        auc=interval(report.auc),
        auc_cap=None if mu is None else upper(ceilings.auc(mu)),
        balanced_accuracy=report.balanced_accuracy,
        balanced_accuracy_cap=None if mu is None else upper(ceilings.balanced_accuracy(mu)),
        at_low_fpr=[_at_low_fpr(entry, mu) for entry in report.true_positives],
        curve=rows.Curve(fpr=fpr, tpr=tpr),
    )


def _at_low_fpr(entry: TruePositives, mu: float | None) -> rows.LowFalsePositives:
    return rows.LowFalsePositives(
        fpr=entry.nominal_fpr,
        tpr=None if entry.rate is None else interval(entry.rate),
        cap=None if mu is None else upper(ceilings.tpr_at_fpr(mu, entry.nominal_fpr)),
    )
