"""Memorisation: honest samples pass, copies do not, and images that were held out say what honest means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedpdiff.attacks import memorisation as module
from fedpdiff.attacks.matching import matched_rows
from fedpdiff.attacks.memorisation import LabelledRows, memorisation, same_classes
from fedpdiff.errors import DataError


def draw(rng: np.random.Generator, count: int, classes: int = 2) -> LabelledRows:
    labels = rng.integers(classes, size=count)
    return LabelledRows.of(rng.normal(size=(count, 6)) + 3 * labels[:, None], labels)


def copies(train: LabelledRows, rng: np.random.Generator, count: int, noise: float) -> LabelledRows:
    index = rng.integers(len(train), size=count)
    return LabelledRows(train.values[index] + noise * rng.normal(size=(count, 6)), train.labels[index])


def test_copies_are_found_by_every_measure() -> None:
    rng = np.random.default_rng(1)
    train, held_out = draw(rng, 200), draw(rng, 200)
    found = memorisation(copies(train, rng, 150, 0.02), train, held_out, rng)
    assert found.closer_to_train.value > 0.93  # some of the copied images are in neither reference set
    assert found.closer_to_train.low > 0.9
    assert found.closer_p_value == 1 / 1000
    assert found.rank_p_value < 1e-6
    assert found.carlini.generated > 0.95 > 0.5 > found.carlini.held_out
    assert found.nearest_ratio.generated > 0.95 > 0.2 > found.nearest_ratio.held_out
    assert found.generated == 150


def test_honest_samples_are_not_accused_more_often_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """False-alarm rate 1e-3 in all: both p-values are uniform or larger over 80 data sets."""
    monkeypatch.setattr(module, "_EXCHANGES", 99)
    rng = np.random.default_rng(2)
    runs = [memorisation(draw(rng, 40), draw(rng, 80), draw(rng, 60), rng) for _ in range(80)]
    for name in ("closer_p_value", "rank_p_value"):
        rejected = sum(getattr(run, name) <= 0.1 for run in runs)
        assert stats.binomtest(rejected, 80, 0.1, "greater").pvalue > 5e-4, name
    mean = np.mean([run.closer_to_train.value for run in runs])
    assert abs(mean - 0.5) < 0.06


def test_few_references_can_favour_a_side_by_luck_which_exchanging_sees() -> None:
    """A binomial interval alone accuses honest samples: the two small reference sets are luck as well."""
    rng = np.random.default_rng(3)
    runs = [memorisation(draw(rng, 400, 1), draw(rng, 5, 1), draw(rng, 5, 1), rng) for _ in range(60)]
    accused = [run for run in runs if run.closer_to_train.low > 0.5]
    assert len(accused) > 10
    assert sum(run.closer_p_value <= 0.05 for run in runs) < 11  # 3 expected; more with chance below 1e-4


def test_ratios_by_hand() -> None:
    train = LabelledRows.of(np.array([[0.0], [10.0], [11.0]]), np.zeros(3, int))
    held_out = LabelledRows.of(np.array([[5.0], [10.5]]), np.zeros(2, int))
    generated = LabelledRows.of(np.array([[1.0], [5.0]]), np.zeros(2, int))
    found = memorisation(generated, train, held_out, np.random.default_rng(0))
    # 1.0: distances 1, 9, 10, mean 6.67; 5.0: 5, 5, 6, mean 5.33; 10.5: 0.5, 0.5, 10.5, mean 3.83
    assert (found.carlini.generated, found.carlini.held_out) == (0.5, 0.5)
    assert (found.nearest_ratio.generated, found.nearest_ratio.held_out) == (0.5, 0.0)
    assert found.references == 2


def test_reference_sets_have_the_same_classes() -> None:
    rng = np.random.default_rng(4)
    train = LabelledRows.of(rng.normal(size=(90, 3)), np.repeat([0, 1, 2], [60, 25, 5]))
    held_out = LabelledRows.of(rng.normal(size=(90, 3)), np.repeat([0, 1, 3], [30, 30, 30]))
    first, second = same_classes(train, held_out, rng)
    assert np.bincount(first.labels).tolist() == np.bincount(second.labels).tolist() == [30, 25]
    assert len(np.unique(first.values, axis=0)) == 55
    assert not np.array_equal(first.labels, np.sort(first.labels))
    left, right = matched_rows(train.labels, held_out.labels, rng, most=22)
    assert (
        np.bincount(train.labels[left]).tolist() == np.bincount(held_out.labels[right]).tolist() == [12, 10]
    )
    assert [len(side) for side in matched_rows([0, 0], [1], rng)] == [0, 0]


def test_too_few_images_are_refused() -> None:
    rng = np.random.default_rng(5)
    with pytest.raises(DataError, match="two or more of each"):
        memorisation(draw(rng, 9), draw(rng, 9, 1), LabelledRows.of(np.ones((4, 6)), np.full(4, 7)), rng)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    sets = draw(rng, 30), draw(rng, 25), draw(rng, 35)
    whole = memorisation(*sets, np.random.default_rng(7))
    monkeypatch.setattr(module, "_CHUNK", 4)
    assert memorisation(*sets, np.random.default_rng(7)) == whole
