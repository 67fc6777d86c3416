"""The Gaussian of a client's own images: against closed forms, and joined with what uploads tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.diffusion import class_gaussian
from fedpdiff.diffusion.class_gaussian import PRIOR, ClassGaussian
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.joining import join
from fedpdiff.diffusion.linear_gaussian import LinearGaussian
from fedpdiff.diffusion.networks import build_network, start_from_nothing
from fedpdiff.diffusion.sampling import hand_off
from fedpdiff.types import LabelledImages

SHAPE = (1, 2, 3)
VALUES = 6
COUNTS = (60, 9, 1, 0)


@pytest.fixture
def images() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([label for label, count in enumerate(COUNTS) for _ in range(count)])
    mixed = torch.randn(VALUES, VALUES, generator=generator)
    grey = 128 + 30 * torch.randn(len(labels), VALUES, generator=generator) @ mixed + 20 * labels.view(-1, 1)
    return LabelledImages(grey.clamp(0, 255).byte().view(-1, *SHAPE), labels)


def fitted(images: LabelledImages) -> ClassGaussian:
    own = ClassGaussian(len(COUNTS), SHAPE)
    own.fit(images, torch.Generator().manual_seed(1))
    return own


def covariance(own: ClassGaussian, label: int) -> np.ndarray:
    """Return the covariance that a class is taken to have, (d, d)."""
    axes = own.directions.T @ own.rotations[label]
    within = axes @ own.variances[label].diag() @ axes.T
    beyond = torch.eye(own.means.shape[1]) - own.directions.T @ own.directions
    return np.asarray(within + own.rest * beyond)


def expected(images: LabelledImages) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the class means and the covariances between own and common, by numpy."""
    pixels, labels = images.pixels().flatten(1).double().numpy(), images.labels.numpy()
    means = np.stack([pixels[labels == k].mean(0) if n else pixels.mean(0) for k, n in enumerate(COUNTS)])
    offset = pixels - means[labels]
    common = offset.T @ offset / (len(pixels) - 3)  # three classes have images
    found = []
    for label, count in enumerate(COUNTS):
        own = np.cov(pixels[labels == label].T) if count > 1 else common
        found.append((count * own + PRIOR * common) / (count + PRIOR))
    return means, found


def test_moments_are_those_of_the_images(images: LabelledImages) -> None:
    own = fitted(images)
    means, covariances = expected(images)
    np.testing.assert_allclose(own.means, means, atol=1e-5)
    assert own.counts.tolist() == list(COUNTS)
    for label, wanted in enumerate(covariances):
        np.testing.assert_allclose(covariance(own, label), wanted, atol=2e-4 * wanted.max())


def test_few_directions_keep_the_strongest_and_all_of_the_variance(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = fitted(images).common
    monkeypatch.setattr(class_gaussian, "RANK", 2)
    own = fitted(images)
    assert own.directions.shape == (2, VALUES)
    np.testing.assert_allclose(own.common, common[:2], rtol=0.02)
    assert float(own.common.sum() + 4 * own.rest) == pytest.approx(float(common.sum()), rel=1e-3)


@pytest.mark.parametrize("rank", [2, 256])
@pytest.mark.parametrize("alpha_bar", [0.999, 0.5, 1e-4])
def test_the_estimate_is_the_posterior_mean(
    rank: int, alpha_bar: float, images: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_gaussian, "RANK", rank)
    own = fitted(images)
    labels = torch.tensor([0, 1, 2, 3, 0])
    x_t = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(2))
    levels = torch.full((5,), alpha_bar, dtype=torch.float64)
    found = own(x_t, levels, labels).flatten(1)
    for row, label in enumerate(labels.tolist()):
        mean, cov = own.means[label].numpy(), covariance(own, label)
        offset = x_t[row].flatten().numpy() - alpha_bar**0.5 * mean
        inverse = np.linalg.inv(alpha_bar * cov + (1 - alpha_bar) * np.eye(VALUES))
        np.testing.assert_allclose(found[row], mean + alpha_bar**0.5 * cov @ inverse @ offset, atol=2e-3)


def pooled(counts: tuple[float, ...], mean: float = 3.0) -> LinearGaussian:
    """Return moments of uploads whose class means are ``mean`` everywhere."""
    base = LinearGaussian(len(counts), SHAPE)
    base.means.fill_(mean)
    base.counts.copy_(torch.tensor(counts))
    return base


def shares(own: ClassGaussian, base: LinearGaussian, start: float, signal: float) -> np.ndarray:
    """Return how much of the way to the uploads' means the joined ones went, (K, R), by direction."""
    way = (base.means - own.means) @ own.directions.T
    gone = own.joined(base, torch.zeros(SHAPE), start, signal).means - own.means
    return np.asarray(gone @ own.directions.T / way)


@given(st.floats(1e-4, 0.9), st.floats(0.02, 0.98), st.integers(1, 10**6))
def test_the_uploads_have_their_best_share_in_the_samples(start: float, signal: float, count: int) -> None:
    """Of the hand-off the personal half follows f, so f times the share handed over is the best one or f."""
    own = ClassGaussian(1, SHAPE)
    own.directions.copy_(torch.eye(VALUES))
    own.common.copy_(torch.linspace(0.01, 2, VALUES))
    own.counts.fill_(8)
    found = shares(own, pooled((count,)), start, signal)[0]
    variance = np.asarray(own._variances()).astype(np.float64)[:-1]
    follow = np.sqrt(variance / (variance + 1 / signal - 1))
    errors = 2 * variance / 8, (variance + 1 / start - 1) / count
    best = errors[0] / (errors[0] + errors[1])
    np.testing.assert_allclose(follow * found, np.minimum(best, follow), rtol=1e-3, atol=1e-5)


def test_who_has_nothing_says_nothing(images: LabelledImages) -> None:
    own = fitted(images)
    centre = torch.full(SHAPE, 0.25)
    uploads = pooled((100.0, 0.0, 100.0, 100.0))
    joined = own.joined(uploads, centre, 0.4, 0.5)
    assert torch.allclose(joined.means[3], torch.full((VALUES,), 3.25))  # no image of its own
    assert torch.allclose(joined.means[1], own.means[1])  # nobody uploaded any
    assert not torch.allclose(joined.means[2], own.means[2])
    assert torch.equal(joined.variances, own.variances)
    # Uploads that are all noise change nothing where there are images, and it all stays finite.
    noise = own.joined(uploads, centre, 1e-12, 0.5).means
    assert torch.allclose(noise[:3], own.means[:3], atol=1e-6) and noise.isfinite().all()
    assert own.means.sum() == fitted(images).means.sum()  # a copy


@pytest.mark.parametrize("rank", [4, 256])
def test_few_images_do_not_pass_for_exact_where_they_show_no_variance(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven images of 36 values, all of them noise: their means err in every direction, shown or not."""
    monkeypatch.setattr(class_gaussian, "RANK", rank)
    shape, counts = (1, 6, 6), (4, 3)
    generator = torch.Generator().manual_seed(5)
    grey = (128 + 40 * torch.randn(sum(counts), *shape, generator=generator)).clamp(0, 255).byte()
    own = ClassGaussian(2, shape)
    own.fit(LabelledImages(grey, torch.tensor([0] * 4 + [1] * 3)), generator)
    uploads = LinearGaussian(2, shape)
    uploads.means.fill_(2.0)
    uploads.counts.fill_(100_000)
    joined = own.joined(uploads, torch.zeros(shape), 0.4, 0.5)
    assert ((joined.means - own.means) / (2.0 - own.means)).min() > 0.95


def test_where_no_class_has_two_images_the_uploads_are_believed() -> None:
    own = ClassGaussian(2, SHAPE)
    image = LabelledImages(torch.full((1, *SHAPE), 200, dtype=torch.uint8), torch.tensor([0]))
    own.fit(image, torch.Generator())
    joined = own.joined(pooled((10.0, 0.0)), torch.zeros(SHAPE), 0.4, 0.5)
    assert torch.allclose(joined.means[0], torch.full((VALUES,), 3.0))
    assert torch.equal(joined.means[1], own.means[1])  # of this one nobody has anything


@torch.no_grad()
def test_mixed_precision_is_not_for_it(images: LabelledImages) -> None:
    own, x = fitted(images), torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(6))
    levels, labels = torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        inside = own(x, levels, labels)
    assert torch.equal(inside, own(x, levels, labels))


@pytest.fixture
def halves(micro: str, describe: Any, stripes: LabelledImages) -> tuple[Denoiser, Denoiser]:
    """Return a global half over moments of uploads and a personal one with a base, both of two classes."""
    config = describe("continued", hand_off=200, base="gaussian")
    uploads = config.empty_base()
    uploads.means.copy_(torch.linspace(-1, 1, 32).view(2, 16))
    uploads.counts.fill_(50)
    centre = torch.full((1, 4, 4), 0.1)
    network = build_network(micro, (1, 4, 4), config.conditions, seed=1)
    global_half = Denoiser(network.eval(), config, centre, uploads)
    config = describe("personal", hand_off=200, base="gaussian")
    own = config.empty_base()
    own.fit(stripes, torch.Generator().manual_seed(0))
    network = build_network(micro, (1, 4, 4), config.conditions, seed=2)
    return global_half, Denoiser(network.eval(), config, torch.zeros(1, 4, 4), own)


@torch.no_grad()
def test_it_stands_for_the_personal_network_above_the_hand_off(
    halves: tuple[Denoiser, Denoiser], tmp_path: Path
) -> None:
    _, personal = halves
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
def test_the_first_stage_knows_the_clients_own_images(halves: tuple[Denoiser, Denoiser]) -> None:
    """Its estimate at the top level is the joined mean; the network of the uploads still adds its own."""
    global_half, personal = halves
    labels = torch.tensor([0, 1])
    start, signal = (float(global_half.chain.alpha_bar[t]) for t in (300, 200))
    joined = personal.base.joined(global_half.base, global_half.centre, start, signal).means
    both, second = join(global_half, personal)
    assert torch.equal(second.base.means, joined) and second.network is personal.network
    x = torch.zeros(2, 1, 4, 4)
    added = both.clean_clipped(x, 1000, labels) - (joined.view_as(x) - global_half.centre)
    expected = global_half.clean_clipped(x, 1000, labels) - global_half.base.means.view_as(x)
    torch.testing.assert_close(added, expected, atol=1e-3, rtol=0)
    start_from_nothing(both.network)
    many = torch.zeros(4000, dtype=torch.int64)
    x_t, _ = hand_off(both, many, "ddim", 20, torch.Generator().manual_seed(4))
    wanted = signal**0.5 * joined[0]
    assert float((x_t.flatten(1).mean(0) - wanted).abs().max()) < 4.5 * float(x_t.std(0).max()) / 4000**0.5


def test_without_both_bases_nothing_is_joined(halves: tuple[Denoiser, Denoiser]) -> None:
    global_half, personal = halves
    bare = personal.config.model_copy(update={"base": "none"})
    halves = (global_half, Denoiser(personal.network, bare, personal.centre))
    assert join(*halves) == halves


@torch.no_grad()
def test_a_class_without_an_image_stays_with_the_base_for_longer(
    halves: tuple[Denoiser, Denoiser], micro: str
) -> None:
    """Down to a signal of 0.95, which is level 68; others have the network from the hand-off on."""
    _, personal = halves
    known = personal.config.model_copy(update={"hidden_label": True, "unseen": [1]})
    network = build_network(micro, (1, 4, 4), known.conditions, seed=2).eval()
    half = Denoiser(network, known, personal.centre, personal.base)
    bare = Denoiser(network, known.model_copy(update={"base": "none"}), personal.centre)
    x, labels = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1])
    for t, stands in ((201, True), (68, True), (67, False)):
        found, by_network = half.clean_clipped(x, t, labels), bare.clean_clipped(x, t, labels)
        by_base = half.base(x, half.chain.alpha_bar[t].expand(2), labels)
        torch.testing.assert_close(found[1], (by_base if stands else by_network)[1])
        torch.testing.assert_close(found[0], (by_base if t > 200 else by_network)[0])
        assert not torch.allclose(by_base, by_network, atol=0.01)
