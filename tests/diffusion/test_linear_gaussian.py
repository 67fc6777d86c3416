"""The Gaussian base: Wiener's filter, and moments of clean images estimated from noisy uploads alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.diffusion import linear_gaussian, moments
from fedpdiff.diffusion.batches import Uploads
from fedpdiff.diffusion.chain import global_chain
from fedpdiff.diffusion.denoiser import Denoiser, load_arrays, to_arrays
from fedpdiff.diffusion.linear_gaussian import LinearGaussian
from fedpdiff.diffusion.networks import build_network, start_from_nothing
from fedpdiff.diffusion.training import TrainingSettings, train_denoiser
from fedpdiff.errors import DataError
from fedpdiff.schedule import NoiseSchedule

START = 0.3  # share of signal in the uploads
SHAPE = (1, 4, 4)
VALUES = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(gaussian: Any) -> LinearGaussian:
    """Return the base with the true moments of one class."""
    base = LinearGaussian(1, (1, 2, 2))
    variances, vectors = torch.linalg.eigh(gaussian.cov)
    exact_ones = {"means": gaussian.mean[None], "directions": vectors.T, "variances": variances}
    exact_ones |= {"counts": torch.ones(1), "spreads": torch.zeros(1, 4, 4)}
    load_arrays(base, {name: tensor.float().numpy() for name, tensor in exact_ones.items()})
    return base


@pytest.mark.parametrize("share", [1e-4, 0.2, 0.7, 0.9999])
def test_it_is_wiener_s_filter(share: float, gaussian: Any) -> None:
    x = 1.5 * torch.randn(50, 1, 2, 2, generator=seeded(3))
    found = exact(gaussian)(
        x, torch.full((50,), share, dtype=torch.float64), torch.zeros(50, dtype=torch.int64)
    )
    torch.testing.assert_close(found, gaussian.expected(x.double(), share).float(), atol=2e-5, rtol=0)


def test_mixed_precision_is_not_for_it(gaussian: Any) -> None:
    x = torch.randn(50, 1, 2, 2, generator=seeded(3))
    asked = (x, torch.full((50,), 0.2, dtype=torch.float64), torch.zeros(50, dtype=torch.int64))
    base = exact(gaussian)
    with torch.autocast("cpu", torch.bfloat16):
        found = base(*asked)
    assert torch.equal(found, base(*asked))


def world(
    count: int, spread: float, seed: int, classes: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return uploads, labels, true means and the one true direction, whose variance is ``spread``."""
    generator = seeded(seed)
    means = 0.5 * torch.randn(classes, VALUES, generator=generator)
    direction = torch.nn.functional.normalize(torch.randn(VALUES, generator=generator), dim=0)
    labels = torch.arange(count) % classes
    clean = means[labels] + math.sqrt(spread) * torch.randn(count, 1, generator=generator) * direction
    noise = torch.randn(count, VALUES, generator=generator)
    uploads = math.sqrt(START) * clean + math.sqrt(1 - START) * noise
    return uploads.view(count, *SHAPE), labels, means, direction


def fitted(
    uploads: torch.Tensor, labels: torch.Tensor, classes: int = 3, start: float = START
) -> LinearGaussian:
    base = LinearGaussian(classes, SHAPE)
    base.fit(uploads, labels, start, seeded())
    return base


def covariance(base: LinearGaussian) -> torch.Tensor:
    return base.directions.T @ torch.diag(base.variances) @ base.directions


def test_moments_of_clean_images_come_from_noisy_ones() -> None:
    """30,000 uploads. False-alarm rate below 1e-6: 5 standard errors of each of 48 means and of the variance.

    Forgetting that uploads carry only a share of the signal is off by over 20.
    """
    count, spread = 30_000, 4.0
    uploads, labels, means, direction = world(count, spread, seed=1)
    base = fitted(uploads, labels)
    noise = (1 - START) / START
    error = ((noise + spread * direction.square()) * 3 / count).sqrt()
    off = ((base.means - means) / error).abs().max()
    assert off < 5
    assert ((math.sqrt(START) * base.means - means) / error).abs().max() > 20
    assert abs(float(base.variances[0]) - spread) < 5 * (spread + noise) * math.sqrt(2 / count)
    assert float((base.directions[0] @ direction).abs()) > 0.999
    assert float(base.variances[1:].max()) < 0.05 * spread  # noise is not taken for signal


def test_the_covariance_of_each_class_is_that_of_its_uploads_less_their_noise() -> None:
    uploads, labels, _, _ = world(60, 3.0, seed=2, classes=2)
    uploads, labels = torch.cat([uploads, uploads[:1]]), torch.cat([labels, torch.tensor([2])])
    base = fitted(uploads, labels, 4)
    assert torch.equal(base.coarse, moments.coarse_directions(SHAPE, VALUES))
    along = (uploads.flatten(1) @ base.coarse.T).double().numpy()
    for label in (0, 1):
        wanted = (np.cov(along[labels == label].T) - (1 - START) * np.eye(VALUES)) / START
        np.testing.assert_allclose(base.spreads[label], wanted, atol=1e-5)
    assert not base.spreads[2:].any()  # one upload, and none


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 6), (1, 2, 3)])
def test_coarse_directions_are_those_of_lowest_frequency(shape: tuple[int, int, int]) -> None:
    values = math.prod(shape)
    found = moments.coarse_directions(shape, values).double()
    torch.testing.assert_close(found @ found.T, torch.eye(values).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[0], torch.full((values,), values**-0.5).double())
    image = torch.randn(shape, generator=seeded(), dtype=torch.float64)
    wanted = scipy.fft.dctn(image.numpy(), norm="ortho").flatten()
    np.testing.assert_allclose(np.sort((found @ image.flatten()).numpy()), np.sort(wanted), atol=1e-5)
    few = moments.coarse_directions(shape, 4).double()
    assert torch.equal(few, found[:4])
    # A rough image has less along them than a smooth one.
    rough = torch.tensor([1.0, -1.0]).double().repeat(values // 2)
    assert float((few @ rough).square().sum()) < 0.5 * values


@pytest.mark.parametrize("seed", range(3))
def test_pure_noise_shows_no_direction_worth_speaking_of(seed: int) -> None:
    """The largest of 16 sample eigenvalues passes its edge by 5 % in fewer than 1e-6 of all draws."""
    uploads, labels, _, _ = world(3_000, 0.0, seed=seed)
    naive = torch.linalg.eigvalsh(torch.cov(uploads.flatten(1).T)).max() - (1 - START)
    kept = fitted(uploads, labels).variances.max() * START
    assert kept < 0.25 * naive
    assert fitted(uploads, labels, start=0.5).variances.max() * 0.5 > kept  # a wrong noise level shows more


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 1000))
def test_any_number_of_uploads_gives_finite_moments(count: int, classes: int, seed: int) -> None:
    uploads = torch.randn(count, *SHAPE, generator=seeded(seed))
    labels = torch.randint(classes, (count,), generator=seeded(seed))
    base = fitted(uploads, labels, classes)
    for tensor in base.buffers():
        assert tensor.isfinite().all()
    assert (base.variances >= 0).all()
    missing = [k for k in range(classes) if k not in labels]
    everybody = uploads.flatten(1).mean(0) / math.sqrt(START)
    for k in missing:
        torch.testing.assert_close(base.means[k], everybody, atol=1e-4, rtol=1e-4)


def test_a_block_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads, labels, _, _ = world(1_000, 2.0, seed=5)
    whole = fitted(uploads, labels)
    monkeypatch.setattr(moments, "_BLOCK", 64 * VALUES)
    seen: list[int] = []

    class Watched:
        def __getitem__(self, index: torch.Tensor, /) -> torch.Tensor:
            seen.append(len(index))
            return uploads[index]

    parts = LinearGaussian(3, SHAPE)
    parts.fit(Watched(), labels, START, seeded())
    assert max(seen) == 64
    torch.testing.assert_close(parts.means, whole.means)
    torch.testing.assert_close(parts.spreads, whole.spreads, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(covariance(parts), covariance(whole), atol=1e-4, rtol=1e-4)


def test_more_values_than_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The iteration finds the direction that stands out among 16 with a basis of 4."""
    monkeypatch.setattr(linear_gaussian, "RANK", 4)
    uploads, labels, _, direction = world(5_000, 4.0, seed=6)
    base = fitted(uploads, labels)
    assert base.directions.shape == (4, VALUES)
    assert float((base.directions[0] @ direction).abs()) > 0.99
    torch.testing.assert_close(base.directions @ base.directions.T, torch.eye(4), atol=1e-5, rtol=0)


# -- under a network -----------------------------------------------------------------------------------------


@pytest.fixture
def half(micro: str, describe: Any) -> Denoiser:
    """Return a global half whose network has learnt nothing yet, over a fitted base."""
    config = describe("continued", t0=300, hand_off=200, image_shape=[1, 4, 4], base="gaussian")
    base = config.empty_base()
    classes = len(config.class_names)
    uploads, labels, _, _ = world(500, 2.0, seed=7, classes=classes)
    base.fit(uploads, labels, config.chain().start, seeded())
    network = build_network(micro, SHAPE, config.conditions, seed=1)
    start_from_nothing(network)
    return Denoiser(network.eval(), config, torch.zeros(SHAPE), base)


def test_an_untrained_network_adds_nothing_and_below_t0_none_is_asked(half: Denoiser) -> None:
    x, labels = torch.randn(4, *SHAPE, generator=seeded(8)), torch.zeros(4, dtype=torch.int64)
    assert half.base is not None
    with torch.no_grad():
        for t in (150, 300, 301, 900):
            alpha_bar = half.chain.alpha_bar[t].expand(4)
            torch.testing.assert_close(half.clean_clipped(x, t, labels), half.base(x, alpha_bar, labels))
        half.network.conv_out.bias += 1.0
        below, above = (half.clean_clipped(x, t, labels) for t in (300, 301))
        assert torch.equal(below, half.base(x, half.chain.alpha_bar[300].expand(4), labels))
        torch.testing.assert_close(above, half.base(x, half.chain.alpha_bar[301].expand(4), labels) + 1.0)


def test_it_is_saved_sent_and_read_with_the_network(half: Denoiser, tmp_path: Any) -> None:
    half.save_pretrained(tmp_path)
    again = Denoiser.from_pretrained(tmp_path)
    empty = Denoiser(half.network, half.config, half.centre, half.config.empty_base())
    load_arrays(empty, to_arrays(half))
    for other in (again, empty):
        assert other.base is not None
        for name, tensor in half.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor)
    (tmp_path / "base.safetensors").unlink()
    with pytest.raises(DataError, match="does not hold a readable denoiser"):
        Denoiser.from_pretrained(tmp_path)


def test_moments_of_another_shape_are_refused(half: Denoiser, tmp_path: Any) -> None:
    arrays = to_arrays(half)
    arrays["base.means"] = arrays["base.means"][:, :3]
    with pytest.raises(DataError, match=r"base\.means"):
        load_arrays(half, arrays)
    half.base.variances[0] = torch.nan  # type: ignore[union-attr]
    half.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="not finite"):
        Denoiser.from_pretrained(tmp_path)


def test_the_network_learns_what_the_base_lacks() -> None:
    """One class varies along a direction, the other does not: the base takes the mean of both for each."""
    generator, count = seeded(9), 4_000
    labels = torch.arange(count) % 2
    clean = torch.zeros(count, *SHAPE)
    clean[:, :, 1:3, 1:3] = 2.0 * labels.view(-1, 1, 1, 1) * torch.randn(count, 1, 1, 1, generator=generator)
    schedule = NoiseSchedule("linear", 1000)
    chain = global_chain(schedule, int((schedule.alpha_bar > 0.7).sum()), "continued", "ambient")
    noise = torch.randn(clean.shape, generator=generator)
    uploads = math.sqrt(chain.start) * clean + math.sqrt(1 - chain.start) * noise
    base = LinearGaussian(2, SHAPE)
    base.fit(uploads, labels, chain.start, seeded())
    network = build_network("tiny", SHAPE, 2, seed=1)
    start_from_nothing(network)
    settings = TrainingSettings(200, 128, 4e-3, 10, 0.9, 1.0)
    train_denoiser(network, chain, Uploads(uploads, labels), settings, seeded(1), base=base)
    t = torch.full((count,), chain.first + 100)
    signal = chain.alpha_bar[t].float().view(-1, 1, 1, 1)
    x = signal.sqrt() * clean + (1 - signal).sqrt() * torch.randn(clean.shape, generator=generator)
    with torch.no_grad():
        alone = base(x, chain.alpha_bar[t], labels)
        together = alone + network(x, t - 1, class_labels=labels).sample
    errors = [float((estimate - clean).square().mean()) for estimate in (alone, together)]
    assert errors[1] < 0.9 * errors[0]
