"""Own moments joined with those that uploads tell, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.diffusion import class_gaussian
from fedpdiff.diffusion.class_gaussian import ClassGaussian
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.joining import join, joined
from fedpdiff.diffusion.linear_gaussian import LinearGaussian
from fedpdiff.diffusion.networks import start_from_nothing
from fedpdiff.diffusion.sampling import hand_off
from fedpdiff.types import LabelledImages

SHAPE = (1, 2, 3)
VALUES = 6


def fitted(own_images: LabelledImages) -> ClassGaussian:
    own = ClassGaussian(4, SHAPE)
    own.fit(own_images, torch.Generator().manual_seed(1))
    return own


def covariance(own: ClassGaussian) -> torch.Tensor:
    """Return the covariance that each class is taken to have, (K, d, d), beyond the directions left out."""
    axes = own.directions.T @ own.rotations
    return (axes * own.variances.unsqueeze(1)) @ axes.mT


def pooled(counts: tuple[float, ...], mean: float = 3.0) -> LinearGaussian:
    """Return moments of uploads whose class means are ``mean`` everywhere."""
    base = LinearGaussian(len(counts), SHAPE)
    base.means.fill_(mean)
    base.counts.copy_(torch.tensor(counts))
    return base


def shares(own: ClassGaussian, base: LinearGaussian, start: float, signal: float) -> np.ndarray:
    """Return how much of the way to the uploads' means the joined ones went, (K, R), by direction."""
    way = (base.means - own.means) @ own.directions.T
    gone = joined(own, base, torch.zeros(SHAPE), start, signal).means - own.means
    return np.asarray(gone @ own.directions.T / way)


@given(st.floats(1e-4, 0.9), st.floats(0.02, 0.98), st.integers(9, 10**6))
def test_the_uploads_have_their_best_share_in_the_samples(start: float, signal: float, count: int) -> None:
    """Of the hand-off the personal half follows f, so f times the share handed over is the best one or f.

    Eight of the uploads are its own: N / (N - 8) times as far off as the mean of all is that of the others.
    """
    own = ClassGaussian(1, SHAPE)
    own.directions.copy_(torch.eye(VALUES))
    own.common.copy_(torch.linspace(0.01, 2, VALUES))
    own.counts.fill_(8)
    others = count - 8
    found = shares(own, pooled((count,)), start, signal)[0] * others / count
    variance = np.asarray(own.spread()).astype(np.float64)[:-1]
    follow = np.sqrt(variance / (variance + 1 / signal - 1))
    errors = 2 * variance / 8, variance / others + (1 / start - 1) * count / others**2
    best = errors[0] / (errors[0] + errors[1])
    np.testing.assert_allclose(follow * found, np.minimum(best, follow), rtol=1e-3, atol=1e-5)


def test_who_has_nothing_says_nothing(own_images: LabelledImages) -> None:
    own = fitted(own_images)
    centre = torch.full(SHAPE, 0.25)
    uploads = pooled((100.0, 0.0, 100.0, 100.0))
    both = joined(own, uploads, centre, 0.4, 0.5)
    assert torch.allclose(both.means[3], torch.full((VALUES,), 3.25))  # no image of its own
    assert torch.allclose(both.means[1], own.means[1])  # nobody uploaded any
    assert not torch.allclose(both.means[2], own.means[2])
    found, before = covariance(both), covariance(own)
    assert torch.equal(found[1], before[1]) and not torch.allclose(found[0], before[0], rtol=0.01)
    assert float(torch.linalg.eigvalsh(found).min()) > -1e-5
    one = pooled((0.0, 0.0, 0.0, 1.0))  # a single upload tells of no covariance
    assert torch.equal(covariance(joined(own, one, centre, 0.4, 0.5)), before)
    # Uploads that are all noise change nothing where there are images, and it all stays finite.
    noise = joined(own, uploads, centre, 1e-12, 0.5)
    assert torch.allclose(noise.means[:3], own.means[:3], atol=1e-6) and noise.means.isfinite().all()
    assert torch.allclose(covariance(noise), covariance(own), atol=1e-4)
    assert own.means.sum() == fitted(own_images).means.sum()  # a copy


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
    both = joined(own, uploads, torch.zeros(shape), 0.4, 0.5)
    assert ((both.means - own.means) / (2.0 - own.means)).min() > 0.95


def test_where_no_class_has_two_images_the_uploads_are_believed() -> None:
    own = ClassGaussian(2, SHAPE)
    image = LabelledImages(torch.full((1, *SHAPE), 200, dtype=torch.uint8), torch.tensor([0]))
    own.fit(image, torch.Generator())
    both = joined(own, pooled((10.0, 0.0)), torch.zeros(SHAPE), 0.4, 0.5)
    assert torch.allclose(both.means[0], torch.full((VALUES,), 3.0))
    assert torch.equal(both.means[1], own.means[1])  # of this one nobody has anything


@torch.no_grad()
def test_mixed_precision_is_not_for_it(based_halves: tuple[Denoiser, Denoiser]) -> None:
    found = join(*based_halves)[1].base
    with torch.autocast("cpu", torch.bfloat16):
        inside = join(*based_halves)[1].base
    for name, moments in found.named_buffers():
        assert torch.equal(moments, getattr(inside, name)), name


def test_nothing_changes_where_uploads_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 36 values 4 directions are told apart, 9 coarse ones are told; the rest has one variance."""
    monkeypatch.setattr(class_gaussian, "RANK", 4)
    shape, counts = (1, 6, 6), (40, 9)
    generator = torch.Generator().manual_seed(5)
    mixed = torch.randn(36, 36, generator=generator)
    grey = (128 + 12 * torch.randn(sum(counts), 36, generator=generator) @ mixed).clamp(0, 255).byte()
    own = ClassGaussian(2, shape)
    own.fit(LabelledImages(grey.view(-1, *shape), torch.tensor([0] * 40 + [1] * 9)), generator)
    beyond = torch.eye(36) - own.directions.T @ own.directions
    uploads = LinearGaussian(2, shape)
    uploads.means.copy_(own.means)
    uploads.coarse = uploads.coarse[:9]
    uploads.spreads = uploads.coarse @ (covariance(own) + own.rest * beyond) @ uploads.coarse.T
    uploads.counts.fill_(1e6)
    both = joined(own, uploads, torch.zeros(shape), 0.5, 0.5)
    torch.testing.assert_close(covariance(both), covariance(own), atol=1e-4 * float(own.common[0]), rtol=0)
    # They say more of one coarse direction: that goes on to the directions that are told apart alone.
    uploads.spreads[:, 0, 0] *= 3
    both = joined(own, uploads, torch.zeros(shape), 0.5, 0.5)
    common = own.spread()
    prior = own.directions.T @ (common[:-1] - common[-1]).diag() @ own.directions + common[-1] * torch.eye(36)
    back = prior @ uploads.coarse.T @ torch.linalg.inv(uploads.coarse @ prior @ uploads.coarse.T)
    more = torch.zeros(2, 9, 9)
    more[:, 0, 0] = uploads.spreads[:, 0, 0] * 2 / 3
    seen = own.directions.T @ own.directions
    wanted = seen @ back @ more @ back.T @ seen
    changed = covariance(both) - covariance(own)
    torch.testing.assert_close(changed, wanted, atol=0.01 * float(wanted.max()), rtol=0)


def test_own_uploads_tell_nothing_new(own_images: LabelledImages) -> None:
    own = fitted(own_images)
    uploads, _ = world(own, (60.0, 8.0, 1.0, 0.0), VALUES)  # one of the second class was not sent
    both = joined(own, uploads, torch.zeros(SHAPE), 0.9, 0.5)
    for name, moments in own.named_buffers():
        assert torch.equal(getattr(both, name), moments), name


def world(own: ClassGaussian, counts: tuple[float, ...], rank: int) -> tuple[LinearGaussian, torch.Tensor]:
    """Return moments of uploads that tell of covariances along ``rank`` directions, and those (K, d, d)."""
    values = own.means.shape[1]
    mixed = torch.randn(len(counts), values, values, generator=torch.Generator().manual_seed(3))
    told = 0.1 * mixed @ mixed.mT
    uploads = LinearGaussian(len(counts), SHAPE)
    uploads.counts.copy_(torch.tensor(counts))
    uploads.coarse = uploads.coarse[:rank]
    uploads.spreads = uploads.coarse @ told @ uploads.coarse.T
    return uploads, told


@pytest.mark.parametrize(("start", "sent"), [(0.5, 400.0), (0.02, 5000.0), (0.9, 2.0)])
def test_every_entry_of_a_covariance_is_weighted_by_images(
    start: float, sent: float, own_images: LabelledImages
) -> None:
    own = fitted(own_images)
    uploads, told = world(own, (sent,) * 4, VALUES)
    found = covariance(joined(own, uploads, torch.zeros(SHAPE), start, 0.5)).double().numpy()
    noise, spread = (1 - start) / start, own.spread()[:-1].double().numpy()
    axes = own.directions.double().numpy()
    clean, noisy = np.outer(spread, spread), np.outer(spread + noise, spread + noise)
    for label, images in enumerate(own.counts.tolist()):
        others = sent - images
        mine, everybody = (
            axes @ np.asarray(one[label]).astype(float) @ axes.T for one in (covariance(own), told)
        )
        if others < 1:
            np.testing.assert_array_equal(found[label], covariance(own)[label].double())
            continue
        theirs = (sent * everybody - images * mine) / others
        worth = clean / (clean / others + (noisy - clean) * sent / others**2)
        counted = (2 + images) / 2 if images > 1 else 16
        mean = (counted * mine + worth * theirs) / (counted + worth)
        values, vectors = np.linalg.eigh(mean)
        wanted = axes.T @ (vectors * values.clip(0)) @ vectors.T @ axes
        np.testing.assert_allclose(found[label], wanted, atol=2e-4 * abs(wanted).max())


def test_what_coarse_directions_change_goes_on_to_the_others(own_images: LabelledImages) -> None:
    """As in a regression on them: with B their rows, by G = S B^T (B S B^T)^-1."""
    own = fitted(own_images)
    uploads, _ = world(own, (1e9,) * 4, 2)  # so many that their own covariance is believed there
    changed = covariance(joined(own, uploads, torch.zeros(SHAPE), 0.5, 0.5)) - covariance(own)
    common = own.directions.T @ own.spread()[:-1].diag() @ own.directions
    coarse = uploads.coarse
    back = common @ coarse.T @ torch.linalg.inv(coarse @ common @ coarse.T)
    block = uploads.spreads - coarse @ covariance(own) @ coarse.T
    torch.testing.assert_close(changed, back @ block @ back.T, atol=2e-3, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_uploads_bring_the_covariance_of_a_rare_class_nearer(seed: int) -> None:
    """From three images of it and 4,000 uploads; nearer than without them in each of 300 draws tried."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(2, VALUES, VALUES, generator=generator) / 6
    truth = factors @ factors.mT

    def draw(label: int, count: int) -> torch.Tensor:
        return torch.randn(count, VALUES, generator=generator) @ factors[label].T

    pixels = torch.cat([draw(0, 300), draw(1, 3)])
    grey = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().view(-1, *SHAPE)
    own = ClassGaussian(2, SHAPE)
    own.fit(LabelledImages(grey, torch.tensor([0] * 300 + [1] * 3)), generator)
    clean = torch.cat([draw(0, 4000), draw(1, 4000)])
    sent = (0.4**0.5 * clean + 0.6**0.5 * torch.randn(clean.shape, generator=generator)).view(-1, *SHAPE)
    uploads = LinearGaussian(2, SHAPE)
    uploads.fit(sent, torch.arange(2).repeat_interleave(4000), 0.4, generator)
    both = joined(own, uploads, torch.zeros(SHAPE), 0.4, 0.5)
    before, after = (float((covariance(one)[1] - truth[1]).norm() / truth[1].norm()) for one in (own, both))
    assert after < before


@torch.no_grad()
def test_the_first_stage_knows_the_clients_own_images(based_halves: tuple[Denoiser, Denoiser]) -> None:
    """Its estimate at the top level is the joined mean; the network of the uploads still adds its own."""
    global_half, personal = based_halves
    labels = torch.tensor([0, 1])
    start, signal = (float(global_half.chain.alpha_bar[t]) for t in (300, 200))
    means = joined(personal.base, global_half.base, global_half.centre, start, signal).means
    both, second = join(global_half, personal)
    assert torch.equal(second.base.means, means) and second.network is personal.network
    x = torch.zeros(2, 1, 4, 4)
    added = both.clean_clipped(x, 1000, labels) - (means.view_as(x) - global_half.centre)
    expected = global_half.clean_clipped(x, 1000, labels) - global_half.base.means.view_as(x)
    torch.testing.assert_close(added, expected, atol=1e-3, rtol=0)
    start_from_nothing(both.network)
    many = torch.zeros(4000, dtype=torch.int64)
    x_t, _ = hand_off(both, many, "ddim", 20, torch.Generator().manual_seed(4))
    wanted = signal**0.5 * means[0]
    assert float((x_t.flatten(1).mean(0) - wanted).abs().max()) < 4.5 * float(x_t.std(0).max()) / 4000**0.5


def test_without_both_bases_nothing_is_joined(based_halves: tuple[Denoiser, Denoiser]) -> None:
    global_half, personal = based_halves
    bare = personal.config.model_copy(update={"base": "none"})
    halves = (global_half, Denoiser(personal.network, bare, personal.centre))
    assert join(*halves) == halves
