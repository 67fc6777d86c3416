"""FedPhD's formulas: homogeneity, who trains where, and what an edge server weighs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.config import RunConfig
from fedpdiff.methods.fedphd import FedPhD, homogeneity


def method(**changes: Any) -> FedPhD:
    return FedPhD(RunConfig.parse({key.replace("_", "-"): value for key, value in changes.items()}))


def test_homogeneity_of_known_mixes() -> None:
    assert homogeneity(np.array([5, 5, 5, 5])) == 2
    assert homogeneity(np.array([7, 0])) == pytest.approx(2 - 0.5**0.5)
    # one class of ten: sqrt(0.9^2 + 9 * 0.1^2)
    assert homogeneity(np.eye(10, dtype=np.int64)[3] * 40) == pytest.approx(2 - 0.9**0.5)


@given(st.lists(st.integers(0, 100), min_size=2, max_size=12).filter(any), st.integers(2, 9))
def test_homogeneity_knows_shares_alone(counts: list[int], factor: int) -> None:
    value = homogeneity(np.array(counts))
    assert 2 - 2**0.5 < value <= 2
    assert homogeneity(factor * np.array(counts)) == pytest.approx(value)
    assert homogeneity(np.array(counts[::-1])) == pytest.approx(value)


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_a_client_goes_where_its_labels_are_wanted(weight: float) -> None:
    """Shares of 4,000 draws against the formula; false-alarm rate 1e-6 (4.9 standard deviations)."""
    attached = [np.array([60, 0, 0]), np.array([0, 30, 30])]
    own, chosen = np.array([0, 30, 30]), method(homogeneity_weight=weight)
    wanted = [max(0.0, weight * 4 * 60 * homogeneity(edge + own) - edge.sum()) + 1e-8 for edge in attached]
    share = wanted[0] / sum(wanted)
    generator = np.random.default_rng(1)
    draws = np.array([chosen.choose_edges(attached, [own], generator)[0] for _ in range(4000)])
    assert abs((draws == 0).mean() - share) < 4.9 * (0.25 / 4000) ** 0.5
    if weight:
        assert abs((draws == 1).mean() - share) > 4.9 * (0.25 / 4000) ** 0.5  # the other way round is noticed


@pytest.mark.parametrize(("second", "weight"), [([90, 0], 0.3), ([0, 90], 2.0)])
def test_who_has_come_in_this_round_counts(second: list[int], weight: float) -> None:
    """How often two clients meet, against the formula; false-alarm rate 1e-6 (4.9 standard deviations)."""
    one, other = np.array([90, 0]), np.array(second)
    there = weight * 4 * 90 * homogeneity(one + other) - 90
    elsewhere = weight * 4 * 90 * homogeneity(other)
    share, generator, empty = there / (there + elsewhere), np.random.default_rng(1), np.zeros(2, np.int64)
    chosen = method(homogeneity_weight=weight)
    draws = [chosen.choose_edges([empty, empty], [one, other], generator) for _ in range(4000)]
    met = float(np.mean([first == last for first, last in draws]))
    assert abs(met - share) < 4.9 * (0.25 / 4000) ** 0.5
    assert abs(met - 0.5) > 4.9 * (0.25 / 4000) ** 0.5  # as if each came alone


def test_nothing_attached_is_changed() -> None:
    attached, counts = [np.array([1, 2]), np.array([3, 4])], [np.array([5, 6])] * 3
    method().choose_edges(attached, counts, np.random.default_rng(1))
    assert [edge.tolist() for edge in attached] == [[1, 2], [3, 4]]
    assert [own.tolist() for own in counts] == [[5, 6]] * 3


def test_what_an_edge_server_weighs() -> None:
    """n_e + b SH_e with b of 20 mean clients; none without clients, and n_e alone with weight 0."""
    attached = [np.array([40, 0]), np.array([30, 30]), np.array([0, 0])]
    counts = [np.array([10, 0]), np.array([10, 10])]
    shares = method().edge_shares(attached, counts)
    assert shares == pytest.approx([40 + 20 * 15 * (2 - 0.5**0.5), 60 + 20 * 15 * 2, 0])
    assert method(homogeneity_weight=0).edge_shares(attached, counts) == [40, 60, 0]


def test_when_edge_servers_meet() -> None:
    every_third = method(edge_rounds=3, rounds=9)
    assert [number for number in range(1, 10) if every_third.edges_meet(number)] == [1, 4, 7]
    assert all(method(edge_rounds=1).edges_meet(number) for number in range(1, 10))
