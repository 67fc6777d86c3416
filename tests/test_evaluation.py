"""Which images are compared, and that methods are ranked as a person would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedpdiff.evaluation import difference_spread, evaluate_groups, reference_images
from fedpdiff.metrics import FeatureNetwork, feature_training, train_feature_network
from fedpdiff.types import LabelledImages


def stripes(labels: torch.Tensor, noise: float, seed: int) -> LabelledImages:
    """One bright row per class, under pixel noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = noise * torch.randn(len(labels), 1, 8, 8, generator=generator)
    pixels[torch.arange(len(labels)), 0, labels] += 180
    return LabelledImages((pixels + 40).clamp(0, 255).to(torch.uint8), labels)


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_training, "STEPS", 40)
        return train_feature_network(stripes(torch.arange(400) % 4, 20, 0), 4, seed=1)


REAL = stripes(torch.arange(400) % 4, 20, seed=1)
GROUPS = {"majority": (0, 1), "minority": (2, 3)}


def test_better_samples_score_better(network: FeatureNetwork) -> None:
    labels = torch.arange(320) % 4
    good = evaluate_groups(stripes(labels, 20, 2), REAL, GROUPS, network)
    bad = evaluate_groups(stripes(labels, 80, 2), REAL, GROUPS, network)
    for group in GROUPS:
        assert good[group].frechet < bad[group].frechet
        assert good[group].accuracy > 0.99
        assert good[group].precision > bad[group].precision


def test_only_the_groups_own_classes_count(network: FeatureNetwork) -> None:
    labels = torch.arange(320) % 4
    mixed = stripes(labels, 20, 2)
    swapped = torch.where(labels == 2, 0, torch.where(labels == 0, 2, labels))  # wrong pictures for 0 and 2
    wrong = LabelledImages(stripes(swapped, 20, 2).images, labels)
    assert evaluate_groups(wrong, REAL, {"odd": (1, 3)}, network) == evaluate_groups(
        mixed, REAL, {"odd": (1, 3)}, network
    )
    scores = evaluate_groups(wrong, REAL, GROUPS, network)
    assert scores["minority"].accuracy == pytest.approx(0.5, abs=0.02)


def test_too_few_images_give_accuracy_alone(network: FeatureNetwork) -> None:
    few = evaluate_groups(stripes(torch.tensor([2, 3]), 20, 2), REAL, GROUPS, network)
    assert few["minority"].accuracy == 1.0
    assert (few["minority"].frechet, few["minority"].precision, few["minority"].recall) == (None,) * 3
    assert few["majority"].accuracy is None


def test_of_classes_without_own_images_there_is_the_accuracy_alone(network: FeatureNetwork) -> None:
    labels = torch.arange(320) % 4
    samples = stripes(labels, 20, 2)
    scores = evaluate_groups(samples, REAL, {"majority": (0, 1), "absent": (2, 3)}, network)
    assert scores["absent"].model_dump(exclude_none=True) == {"accuracy": 1.0}
    assert scores["majority"].frechet is not None


def test_empty_groups_are_left_out(network: FeatureNetwork) -> None:
    scores = evaluate_groups(REAL, REAL, {"majority": (0, 1, 2, 3), "minority": ()}, network)
    assert list(scores) == ["majority"]
    assert scores["majority"].frechet == pytest.approx(0, abs=1e-6)


def test_another_space_changes_distances_but_not_who_judges_accuracy(network: FeatureNetwork) -> None:
    class Brightness:
        name, dimension = "brightness", 2

        def features(self, images: LabelledImages) -> np.ndarray:
            return images.images.double().flatten(1)[:, :2].numpy()

    labels = torch.arange(320) % 4
    classifier = evaluate_groups(stripes(labels, 20, 2), REAL, GROUPS, network)
    other = evaluate_groups(stripes(labels, 20, 2), REAL, GROUPS, network, Brightness())
    assert other["minority"].accuracy == classifier["minority"].accuracy
    assert other["minority"].frechet != classifier["minority"].frechet


def test_the_reference_has_equally_many_images_per_class() -> None:
    real = stripes(torch.tensor([0] * 30 + [1] * 40 + [2] * 50), 20, 1)
    assert reference_images(real, (0, 1, 2)).counts(3) == [30, 30, 30]
    assert reference_images(real, (1,)).counts(3) == [0, 40, 0]
    assert len(reference_images(real, (3,))) == 0


def test_one_rare_class_does_not_throw_the_reference_away() -> None:
    real = stripes(torch.tensor([0] * 30 + [1] * 40 + [2]), 20, 1)
    assert reference_images(real, (0, 1, 2)).counts(3) == [30, 40, 1]


def test_the_spread_of_a_difference(network: FeatureNetwork) -> None:
    labels = torch.arange(320) % 4
    one, other = stripes(labels, 60, 2), stripes(labels, 20, 3)
    spread = difference_spread(one, other, REAL, (2, 3), network, np.random.default_rng(0))
    scores = [evaluate_groups(s, REAL, {"minority": (2, 3)}, network)["minority"] for s in (one, other)]
    assert 0 < spread < scores[0].frechet - scores[1].frechet
    few = one.select(torch.arange(8))
    assert difference_spread(few, other, REAL, (2, 3), network, np.random.default_rng(0)) is None


def test_equal_samples_have_a_spread_too(network: FeatureNetwork) -> None:
    labels = torch.arange(320) % 4
    samples = stripes(labels, 20, 2)
    spread = difference_spread(samples, samples, REAL, (2, 3), network, np.random.default_rng(0))
    assert spread is not None and spread > 0
