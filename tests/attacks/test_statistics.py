"""Statistics of attacks against closed forms: two unit Gaussians a distance 1 apart, and edge cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr, ndtri
from sklearn.metrics import roc_auc_score

from fedpdiff.attacks.statistics import (
    FALSE_POSITIVE_RATES,
    area_under_curve,
    balanced_accuracy,
    best_threshold,
    exact_rate,
    membership_report,
    roc_curve,
    true_positives_at,
)
from fedpdiff.errors import DataError

AUC = float(ndtr(1 / np.sqrt(2)))  # members N(-1, 1), non-members N(0, 1)

some_scores = st.lists(st.integers(-3, 3), min_size=2, max_size=40)


def draw(seed: int, members: int, non_members: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(-1, 1, members), rng.normal(0, 1, non_members)


def test_gaussians_give_their_closed_forms() -> None:
    members, non_members = draw(1, 20_000, 20_000)
    report = membership_report(members, non_members)
    assert pytest.approx(0.7602, abs=1e-4) == AUC
    assert report.auc.value == pytest.approx(AUC, abs=4.5 * 0.0024)  # 4.5 DeLong standard errors
    assert report.auc.low < AUC < report.auc.high
    assert report.balanced_accuracy == pytest.approx(ndtr(0.5), abs=0.012)
    for entry in report.true_positives:
        assert entry.rate is not None
        exact = ndtr(ndtri(entry.nominal_fpr) + 1)
        # The threshold, an order statistic, moves the rate as well: about 0.0035 and 0.0032 in all.
        assert entry.rate.value == pytest.approx(exact, abs=0.016)


def test_delong_intervals_cover_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(300):
        rate = area_under_curve(*draw(seed, 60, 90))
        hits += rate.low <= AUC <= rate.high
    # 95 % with the small-sample error of an asymptotic interval; 90 % or 99.5 % would be seen.
    assert stats.binomtest(hits, 300, 0.945).pvalue > 1e-3


@given(some_scores, some_scores)
def test_auc_equals_counting_pairs(members: list[int], non_members: list[int]) -> None:
    m, n = np.array(members)[:, None], np.array(non_members)[None]
    expected = ((m < n) + 0.5 * (m == n)).mean()
    rate = area_under_curve(members, non_members)
    assert rate.value == pytest.approx(expected)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1


def test_auc_equals_scikit_learn_and_lower_means_member() -> None:
    members, non_members = draw(3, 200, 150)
    expected = roc_auc_score([1] * 200 + [0] * 150, -np.concatenate([members, non_members]))
    assert area_under_curve(members, non_members).value == pytest.approx(expected, abs=1e-12)
    assert area_under_curve([0, 1], [2, 3]).value == 1
    assert area_under_curve([2, 3], [0, 1]).value == 0


def test_perfect_order_is_not_certainty() -> None:
    rate = area_under_curve(np.arange(8), 10 + np.arange(30))
    assert rate.value == rate.high == 1
    assert rate.low == pytest.approx(0.025 ** (1 / 8))  # eight disjoint pairs, all in order


@given(st.integers(0, 10**6), st.integers(2, 40), st.sampled_from([0.01, 0.05, 0.5, 0.999, 1.0]))
def test_realised_false_positives_never_exceed_the_nominal(seed: int, kinds: int, nominal: float) -> None:
    rng = np.random.default_rng(seed)
    members, non_members = rng.integers(kinds, size=9), rng.integers(kinds, size=rng.integers(2, 1200))
    entry = true_positives_at(members, non_members, nominal)
    assert entry.fpr <= nominal
    assert entry.rate is None or len(non_members) * nominal >= 10


def test_all_allowed_false_positives_are_used_when_nothing_ties() -> None:
    members, non_members = draw(5, 500, 2900)
    entry = true_positives_at(members, non_members, 0.01)
    assert entry.fpr == 29 / 2900
    assert entry.rate is not None
    threshold = np.sort(non_members)[29]
    assert entry.rate == exact_rate(int((members < threshold).sum()), 500)


@pytest.mark.parametrize(("non_members", "meaningful"), [(999, 0), (1000, 1), (9_999, 1), (10_000, 2)])
def test_rates_at_few_false_positives_are_not_meaningful(non_members: int, meaningful: int) -> None:
    report = membership_report(*draw(7, 50, non_members))
    assert sum(entry.rate is not None for entry in report.true_positives) == meaningful
    assert [entry.nominal_fpr for entry in report.true_positives] == list(FALSE_POSITIVE_RATES)


def test_threshold_is_judged_on_other_scores() -> None:
    rng = np.random.default_rng(11)
    # Scores without any information: the best threshold for them looks better than guessing, on others not.
    flattered, honest = [], []
    for _ in range(200):
        members, non_members = rng.normal(size=20), rng.normal(size=20)
        flattered.append(balanced_accuracy(members, non_members, best_threshold(members, non_members)))
        honest.append(membership_report(members, non_members).balanced_accuracy)
    assert np.mean(flattered) > 0.57
    assert abs(np.mean(honest) - 0.5) < 4 * np.std(honest) / np.sqrt(200)
    report = membership_report([0, 0, 9, 9], [5, 5, 5, 5], validation=([1, 2], [8, 9]))
    assert report.balanced_accuracy == pytest.approx(0.75)  # "member if score <= 2": half caught, no alarm


def test_exact_rate_is_clopper_pearson() -> None:
    rate = exact_rate(3, 20)
    assert (rate.low, rate.high) == pytest.approx(
        (stats.beta.ppf(0.025, 3, 18), stats.beta.ppf(0.975, 4, 17))
    )
    with pytest.raises(DataError, match="at least one trial"):
        exact_rate(0, 0)


def test_curve_is_the_empirical_one() -> None:
    members, non_members = draw(13, 400, 3000)
    false, true = roc_curve(members, non_members)
    assert (false[0], true[0]) == (0.0, float((members < non_members.min()).mean()))
    assert (false[-1], true[-1]) == (1.0, 1.0)
    assert len(false) <= 202
    assert min(value for value in false if value > 0) == 1 / 3000
    for fpr, tpr in zip(false[1:-1], true[1:-1], strict=True):
        threshold = np.sort(non_members)[round(fpr * 3000)]
        assert tpr == (members < threshold).mean()


def test_curve_of_tied_scores_lies_where_a_threshold_can_be() -> None:
    false, _ = roc_curve([0, 1, 1], [1, 1, 2, 2])
    assert set(false) <= {0.0, 0.5, 1.0}


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        area_under_curve([0.0, float("nan")], [1.0, 2.0])
    with pytest.raises(DataError, match="at least 2"):
        area_under_curve([0.0], [1.0, 2.0])
    with pytest.raises(DataError, match="at least 4 of each"):
        membership_report([0, 1, 2], [1, 2, 3, 4])
