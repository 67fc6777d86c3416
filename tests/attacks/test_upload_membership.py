"""The membership score of uploads against its formula, at both ends of the noise, and at the cap of mu."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from fedpdiff.attacks.linear import fit_gaussian
from fedpdiff.attacks.statistics import Rate, area_under_curve
from fedpdiff.attacks.upload_membership import attack_upload_membership, upload_membership_scores
from fedpdiff.attacks.uploads import noised
from fedpdiff.errors import DataError
from fedpdiff.privacy import ceilings
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule("linear", 1000)


def images(count: int, dimension: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, dimension)) * np.linspace(0.2, 1, dimension)


@pytest.mark.parametrize("labelled", [False, True])
def test_the_score_is_its_formula(labelled: bool) -> None:
    rng = np.random.default_rng(0)
    candidates, members = images(7, 5, 1), images(6, 5, 2)
    share, theirs, known = 0.6, np.array([0, 1, 0, 1, 0, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    uploads, population = noised(members, share, rng), rng.standard_normal(6)
    labels = (theirs, known) if labelled else (None, None)
    scores = upload_membership_scores(candidates, uploads, share, population, *labels)
    for j, candidate in enumerate(candidates[: 6 if labelled else 7]):
        there = known == theirs[j] if labelled else np.ones(6, bool)
        own = multivariate_normal(share**0.5 * candidate, (1 - share) * np.eye(5)).logpdf(uploads[there])
        expected = logsumexp(own - population[there]) - np.log(there.sum())
        assert scores[j] == pytest.approx(-expected, abs=1e-10)
    if labelled:  # nobody uploaded class 2
        assert np.isfinite(scores).all() and scores.argmax() == 6


def attack(level: int, seed: int = 0, count: int = 600) -> Rate:
    share = float(SCHEDULE.alpha_bar[level])
    members, others, public = (images(count, 40, seed + i) for i in (10, 20, 30))
    uploads = noised(members, share, np.random.default_rng(seed))
    model = fit_gaussian(public)
    scores = [attack_upload_membership(model, tried, uploads, share) for tried in (members, others)]
    return area_under_curve(*scores, confidence=0.999)


def test_little_noise_gives_members_away_and_much_does_not() -> None:
    assert attack(100).low > 0.98
    assert 0.55 < attack(300).low < attack(300).high < 0.95
    lost = attack(1000)
    assert lost.low < 0.5 < lost.high


def test_the_order_of_uploads_does_not_matter() -> None:
    share = 0.5
    members = images(50, 10, 3)
    uploads = noised(members, share, np.random.default_rng(4))
    model = fit_gaussian(images(200, 10, 5))
    forward = attack_upload_membership(model, members, uploads, share)
    np.testing.assert_allclose(forward, attack_upload_membership(model, members, uploads[::-1], share))


def test_dividing_by_the_population_matters() -> None:
    """Without p_pop the score is dominated by uploads that are likely anyway."""
    share = float(SCHEDULE.alpha_bar[300])
    members, others = images(600, 40, 10), images(600, 40, 20)
    uploads = noised(members, share, np.random.default_rng(0))
    blind = [upload_membership_scores(x, uploads, share, np.zeros(600)) for x in (members, others)]
    assert area_under_curve(*blind).value < attack(300).value - 0.03


def test_one_upload_of_the_worst_pair_reaches_the_cap() -> None:
    """Candidates +C v and -C v, one upload: the score is the likelihood ratio, its AUC Phi(mu / sqrt 2)."""
    radius, trials = 10.0, 2500
    share = float(SCHEDULE.alpha_bar[690])
    mu = mu_of(share, radius)
    edge = np.zeros((1, 4))
    edge[0, 0] = radius
    rng = np.random.default_rng(6)
    scores = []
    for truth in (edge, -edge):
        uploads = noised(np.repeat(truth, trials, axis=0), share, rng)
        other = norm(-edge[0] * share**0.5, (1 - share) ** 0.5).logpdf(uploads).sum(1)
        scores.append(
            np.concatenate(
                [
                    upload_membership_scores(edge, uploads[i : i + 1], share, other[i : i + 1])
                    for i in range(trials)
                ]
            )
        )
    found = area_under_curve(*scores, confidence=0.999)
    assert found.low < ceilings.auc(mu) < found.high
    assert found.high - found.low < 0.035


def test_what_does_not_fit_together_is_refused() -> None:
    x = images(5, 4, 0)
    with pytest.raises(DataError, match="population densities"):
        upload_membership_scores(x, x, 0.5, np.zeros(4))
    with pytest.raises(DataError, match="0 uploads"):
        upload_membership_scores(x, x[:0], 0.5, np.zeros(0))
    with pytest.raises(DataError, match="or neither"):
        upload_membership_scores(x, x, 0.5, np.zeros(5), np.zeros(5, np.int64))
