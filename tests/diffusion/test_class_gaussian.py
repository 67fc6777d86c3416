"""The Gaussian of a client's own images, against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from fedpdiff.diffusion import class_gaussian
from fedpdiff.diffusion.class_gaussian import PRIOR, ClassGaussian, likely_covariance
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.networks import build_network
from fedpdiff.types import LabelledImages

SHAPE = (1, 2, 3)
VALUES = 6
COUNTS = (60, 9, 1, 0)


def fitted(own_images: LabelledImages) -> ClassGaussian:
    own = ClassGaussian(len(COUNTS), SHAPE)
    own.fit(own_images, torch.Generator().manual_seed(1))
    return own


def covariance(own: ClassGaussian, label: int) -> np.ndarray:
    """Return the covariance that a class is taken to have, (d, d)."""
    axes = own.directions.T @ own.rotations[label]
    within = axes @ own.variances[label].diag() @ axes.T
    beyond = torch.eye(own.means.shape[1]) - own.directions.T @ own.directions
    return np.asarray(within + own.rest * beyond)


def expected(own_images: LabelledImages) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the class means and the covariances, between own and common or the likely one, by numpy."""
    pixels, labels = own_images.pixels().flatten(1).double().numpy(), own_images.labels.numpy()
    means = np.stack([pixels[labels == k].mean(0) if n else pixels.mean(0) for k, n in enumerate(COUNTS)])
    offset = pixels - means[labels]
    common = offset.T @ offset / (len(pixels) - 3)  # three classes have images
    own = {label: np.cov(pixels[labels == label].T) for label, count in enumerate(COUNTS) if count > 1}
    added = 0.25 * VALUES  # images
    free = sum(COUNTS[label] - 1 for label in own)
    precision = np.zeros_like(common)
    for label, covariance in own.items():
        known = (COUNTS[label] * covariance + added * common) / (COUNTS[label] + added)
        precision += (COUNTS[label] - 1) / free * np.linalg.inv(known)
    likely = np.linalg.inv(precision)
    found = [likely] * len(COUNTS)
    for label, covariance in own.items():
        found[label] = (COUNTS[label] * covariance + PRIOR * common) / (COUNTS[label] + PRIOR)
    return means, found


def test_moments_are_those_of_the_images(own_images: LabelledImages) -> None:
    own = fitted(own_images)
    means, covariances = expected(own_images)
    np.testing.assert_allclose(own.means, means, atol=1e-5)
    assert own.counts.tolist() == list(COUNTS)
    for label, wanted in enumerate(covariances):
        np.testing.assert_allclose(covariance(own, label), wanted, atol=2e-4 * wanted.max())


def test_few_directions_keep_the_strongest_and_all_of_the_variance(
    own_images: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = fitted(own_images).common
    monkeypatch.setattr(class_gaussian, "RANK", 2)
    own = fitted(own_images)
    assert own.directions.shape == (2, VALUES)
    np.testing.assert_allclose(own.common, common[:2], rtol=0.02)
    assert float(own.common.sum() + 4 * own.rest) == pytest.approx(float(common.sum()), rel=1e-3)


def test_pixels_that_never_vary_in_one_class_are_still_those_of_the_likely_one() -> None:
    """Beside a class of equal images one that varies; what a third one is like stays finite and small."""
    generator = torch.Generator().manual_seed(4)
    grey = (128 + 40 * torch.randn(60, *SHAPE, generator=generator)).clamp(0, 255).byte()
    grey[30:] = 200
    own = ClassGaussian(3, SHAPE)
    own.fit(LabelledImages(grey, torch.tensor([0] * 30 + [1] * 30)), generator)
    assert own.variances.isfinite().all()
    assert 0 < float(own.variances[2].sum()) < 0.2 * float(own.variances[0].sum())


def divergence(one: torch.Tensor, others: list[torch.Tensor]) -> float:
    """Return the mean of KL(N(0, one) || N(0, other)), by torch."""
    zero = torch.zeros(len(one), dtype=one.dtype)
    near = MultivariateNormal(zero, one)
    return float(sum(kl_divergence(near, MultivariateNormal(zero, other)) for other in others)) / len(others)


@given(st.integers(0, 2**31), st.integers(2, 5))
def test_samples_of_an_unknown_shape_are_likely_in_all_known_ones(seed: int, classes: int) -> None:
    """No covariance nearby has a smaller mean divergence from those of the classes."""
    generator = torch.Generator().manual_seed(seed)
    size, count = 4, 1e6  # so many images that nothing is added to a class

    def draw() -> torch.Tensor:
        factor = torch.randn(size, size, generator=generator, dtype=torch.float64)
        return factor @ factor.T + 0.1 * torch.eye(size)

    shapes = [draw() for _ in range(classes)]
    axes = torch.linalg.eigh(sum(shapes) / classes)
    turned = [axes.eigenvectors.T @ shape @ axes.eigenvectors for shape in shapes]
    counts = torch.tensor([*[count] * classes, 1.0, 0.0], dtype=torch.float64)
    products = torch.stack([*((count - 1) * shape for shape in turned), *[torch.zeros(size, size)] * 2])
    found = likely_covariance(products, counts, axes.eigenvalues)
    least = divergence(found, turned)
    assert least < divergence(axes.eigenvalues.diag(), turned)
    for step in (0.1, -0.1):
        tilt = draw()
        assert least < divergence(found + step * found @ tilt @ found / (tilt @ found).trace(), turned)


def test_a_class_alone_passes_its_shape_on() -> None:
    """Of one class with images what is likely is theirs; with none of two, the common covariance as it is."""
    common = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    counts = torch.tensor([9.0, 1.0, 0.0], dtype=torch.float64)
    products = torch.stack([8 * common.diag(), *[torch.zeros(3, 3)] * 2]).double()
    found = likely_covariance(products, counts, common)
    torch.testing.assert_close(found, common.diag())
    assert float(found[2, 2]) == pytest.approx(0, abs=1e-9)
    none = likely_covariance(torch.zeros_like(products), counts.clamp_max(1), common)
    assert torch.equal(none, common.diag())


@pytest.mark.parametrize("rank", [2, 256])
@pytest.mark.parametrize("alpha_bar", [0.999, 0.5, 1e-4])
def test_the_estimate_is_the_posterior_mean(
    rank: int, alpha_bar: float, own_images: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_gaussian, "RANK", rank)
    own = fitted(own_images)
    labels = torch.tensor([0, 1, 2, 3, 0])
    x_t = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(2))
    levels = torch.full((5,), alpha_bar, dtype=torch.float64)
    found = own(x_t, levels, labels).flatten(1)
    for row, label in enumerate(labels.tolist()):
        mean, cov = own.means[label].numpy(), covariance(own, label)
        offset = x_t[row].flatten().numpy() - alpha_bar**0.5 * mean
        inverse = np.linalg.inv(alpha_bar * cov + (1 - alpha_bar) * np.eye(VALUES))
        np.testing.assert_allclose(found[row], mean + alpha_bar**0.5 * cov @ inverse @ offset, atol=2e-3)


@torch.no_grad()
def test_mixed_precision_is_not_for_it(own_images: LabelledImages) -> None:
    own, x = fitted(own_images), torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(6))
    levels, labels = torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        inside = own(x, levels, labels)
    assert torch.equal(inside, own(x, levels, labels))


@torch.no_grad()
def test_it_stands_for_the_personal_network_above_the_hand_off(
    based_halves: tuple[Denoiser, Denoiser], tmp_path: Path
) -> None:
    _, personal = based_halves
    x, labels = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1, 1])
    personal.save_pretrained(tmp_path)
    for half in (personal, Denoiser.from_pretrained(tmp_path)):
        assert half.base is not None
        alone = half.base(x, half.chain.alpha_bar[201].expand(3), labels).clamp(-1, 1)
        assert torch.equal(half.clean(x, 201, labels), alone)
        bare = Denoiser(half.network, half.config.model_copy(update={"base": "none"}), half.centre)
        assert torch.equal(half.clean(x, 200, labels), bare.clean(x, 200, labels))
        assert not torch.equal(half.clean(x, 201, labels), bare.clean(x, 201, labels))


@torch.no_grad()
def test_a_class_without_an_image_stays_with_the_base_for_longer(
    based_halves: tuple[Denoiser, Denoiser], micro: str
) -> None:
    """Down to a signal of 0.98, which is level 41; others have the network from the hand-off on."""
    _, personal = based_halves
    known = personal.config.model_copy(update={"hidden_label": True, "unseen": [1]})
    network = build_network(micro, (1, 4, 4), known.conditions, seed=2).eval()
    half = Denoiser(network, known, personal.centre, personal.base)
    bare = Denoiser(network, known.model_copy(update={"base": "none"}), personal.centre)
    x, labels = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1])
    for t, stands in ((201, True), (41, True), (40, False)):
        found, by_network = half.clean_clipped(x, t, labels), bare.clean_clipped(x, t, labels)
        by_base = half.base(x, half.chain.alpha_bar[t].expand(2), labels)
        torch.testing.assert_close(found[1], (by_base if stands else by_network)[1])
        torch.testing.assert_close(found[0], (by_base if t > 200 else by_network)[0])
        assert not torch.allclose(by_base, by_network, atol=0.01)
