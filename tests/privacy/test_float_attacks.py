"""Attacks that use how floats are rounded, or which generator drew the noise, instead of statistics.

Each has to succeed on the obvious release, ``sqrt(abar) u + sqrt(1 - abar) torch.randn`` in float32, from one
upload, and to know nothing about ours, which goes through the code that makes every upload.

- Lattice (Mironov 2012; Holohan & Braghin 2021): float32 ``randn`` makes pairs of values from 24-bit
  uniforms, so for the right candidate image 2^24 exp(-(z_j^2 + z_{j+8}^2) / 2) is nearly an integer.
- Precision (Haney et al. 2022): the sum of two floats lies on the coarser one's grid, so a sum off the grid
  rules a candidate out with certainty, however perfect the noise was.
- Seed search: a seed from a space that can be searched gives the noise, and so the image, away.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from fedpdiff.privacy.gaussian_noise import SecureNoise, SeededNoise, rounded_gaussian
from fedpdiff.privacy.mechanism import (
    STEP,
    clip,
    decode_integers,
    noise_sigma,
    release_integers,
    signal_integers,
)
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import ReleaseStore
from fedpdiff.privacy.request import ReleaseRequest
from fedpdiff.privacy.wire import decode, encode
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

Array = NDArray[np.float64]
SHAPE = (1, 28, 28)
D = 784
COUNT = 300
CLIP = 10.0
SEEDS = 1 << 12  # a search over 2^32 takes some hours of one core; over this, a second
AT_CHANCE = 1e-7  # false-alarm rate of each comparison with chance


def _abar(t0: int) -> float:
    return float(NoiseSchedule("linear").alpha_bar[t0])


def _images(count: int = COUNT) -> torch.Tensor:
    generator = np.random.default_rng(11)
    return torch.from_numpy(generator.integers(0, 256, (count, *SHAPE), dtype=np.uint8))


def _signal(images: torch.Tensor) -> Array:
    """Return the clipped images u, which the attacker knows up to which one it was."""
    pixels = LabelledImages(images, torch.zeros(len(images), dtype=torch.int64)).pixels().numpy()
    return clip(pixels, 0.0, CLIP)


# -- three releases of the same images --------------------------------------------------------------------


def _naive(images: torch.Tensor, t0: int, noise: Callable[[int], torch.Tensor]) -> NDArray[np.float32]:
    """Release as ``scheduler.add_noise`` does, one image after the other."""
    a, b = math.sqrt(_abar(t0)), math.sqrt(1 - _abar(t0))
    u = torch.from_numpy(_signal(images)).float()
    return np.stack([(a * row + b * noise(D).reshape(SHAPE)).numpy() for row in u])


def _ours(images: torch.Tensor, t0: int, folder: Path) -> NDArray[np.int16]:
    """Release through the store; the labels tell which row was which image."""
    centre = np.zeros(SHAPE, np.float32)
    request = ReleaseRequest(t0, _abar(t0), CLIP, centre, "linear", 1000, 1e-5, "secure")
    digests = [hashlib.sha256(image.numpy().tobytes()).digest() for image in images]
    private = PrivateImages(LabelledImages(images, torch.arange(len(images))), digests)
    store = ReleaseStore(folder, Policy.simulation(1e6, 1e-5))
    release = store.get_or_make(request, private, SecureNoise())
    return np.asarray(release.integers[np.argsort(release.labels)])


def _received(images: torch.Tensor, t0: int, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return our release as integers on the client's disk and as the server decodes 8 bits of them."""
    integers = _ours(images, t0, folder)
    return {"integers": decode_integers(integers), "8 bits": decode(encode(integers, 8), 8, integers.shape)}


def _randn(generator: torch.Generator) -> Callable[[int], torch.Tensor]:
    return lambda count: torch.randn(count, generator=generator)


def _ideal(generator: np.random.Generator) -> Callable[[int], torch.Tensor]:
    """A perfect Gaussian, rounded to float32 once."""
    return lambda count: torch.from_numpy(generator.normal(size=count)).float()


def _sum_of_four(generator: np.random.Generator) -> Callable[[int], torch.Tensor]:
    """The known patch: the sum of four samples blurs the lattice, not the precision."""
    one = _ideal(generator)
    return lambda count: torch.stack([one(count) for _ in range(4)]).sum(0) / 2


# -- lattice ----------------------------------------------------------------------------------------------


def _lattice_scores(uploads: NDArray[np.float32], candidates: Array, t0: int) -> Array:
    """Return per upload the mean distance to the lattice if ``candidates`` were the images: low = right."""
    a, b = math.sqrt(_abar(t0)), math.sqrt(1 - _abar(t0))
    a, b = float(np.float32(a)), float(np.float32(b))
    z = (uploads.astype(np.float64) - a * candidates.astype(np.float32)) / b
    pairs = z.reshape(len(z), D // 16, 2, 8)
    uniform = np.exp(-(pairs**2).sum(axis=2) / 2).reshape(len(z), -1)
    steps = uniform * 2**24
    distance = np.abs(steps - np.rint(steps))
    # Only small uniforms are exact enough in float32. Without any, the attack must guess.
    return np.array([d[s].mean() if s.any() else 0.25 for d, s in zip(distance, uniform < 0.02, strict=True)])


def _separation(right: Array, wrong: Array) -> tuple[float, float]:
    """Return the AUC of "low means right" and the p-value of its being one half."""
    test = mannwhitneyu(wrong, right)
    return float(test.statistic) / (len(right) * len(wrong)), float(test.pvalue)


def test_lattice_attack(tmp_path: Path) -> None:
    images = _images()
    u = _signal(images)
    others = np.roll(u, 1, axis=0)
    naive = _naive(images, 690, _randn(torch.Generator().manual_seed(1)))  # how it was seeded is no matter
    auc, _ = _separation(_lattice_scores(naive, u, 690), _lattice_scores(naive, others, 690))
    assert auc > 0.95
    for uploads in _received(images, 690, tmp_path).values():
        _, p = _separation(_lattice_scores(uploads, u, 690), _lattice_scores(uploads, others, 690))
        assert p > AT_CHANCE


# -- precision --------------------------------------------------------------------------------------------


def _ruled_out(uploads: NDArray[np.float32], candidates: Array, t0: int) -> float:
    """Return the share of uploads that cannot have come from their candidate in float32 arithmetic.

    Where |y| <= |a u_j| / 2 with y = fl(a u_j + n), the noise is at least |a u_j| / 2 in size, so both terms
    are multiples of half a unit in the last place of a u_j, and so is y.
    """
    a = np.float32(math.sqrt(_abar(t0)))
    size = np.abs(a * candidates.astype(np.float32)).astype(np.float64)
    step = 2.0 ** (np.floor(np.log2(np.maximum(size, 1e-30))) - 24)
    inside = (np.abs(uploads) <= size / 2) & (uploads != 0)
    multiple = uploads.astype(np.float64) / step
    off = inside & (multiple != np.rint(multiple))
    return float(off.any(axis=(1, 2, 3)).mean())


@pytest.mark.parametrize("noise", [_ideal, _sum_of_four])
@pytest.mark.parametrize(("t0", "share"), [(690, 0.4), (400, 0.9)])
def test_precision_attack(
    t0: int,
    share: float,
    noise: Callable[[np.random.Generator], Callable[[int], torch.Tensor]],
    tmp_path: Path,
) -> None:
    """Certain, so the right candidate is never ruled out; of the wrong ones at least the given share is."""
    images = _images()
    u = _signal(images)
    others = np.roll(u, 1, axis=0)
    naive = _naive(images, t0, noise(np.random.default_rng(7)))  # the attack needs no seed
    assert _ruled_out(naive, u, t0) == 0
    assert _ruled_out(naive, others, t0) > share
    uploads = decode_integers(_ours(images, t0, tmp_path))
    assert _ruled_out(uploads, u, t0) == _ruled_out(uploads, others, t0) == 0


# -- seed search ------------------------------------------------------------------------------------------


def _search(upload: Array, noise: Callable[[int], Array], tolerance: float) -> list[int]:
    """Return the seeds whose first 16 values of noise leave a plausible signal."""
    return [seed for seed in range(SEEDS) if np.abs(upload.ravel()[:16] - noise(seed)).max() < tolerance]


def _torch_noise(seed: int, count: int) -> Array:
    sample = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return math.sqrt(1 - _abar(690)) * sample.double().numpy()


def _seeded_noise(seed: int, count: int) -> Array:
    integers = rounded_gaussian(noise_sigma(_abar(690)), count, SeededNoise(seed))
    return integers.astype(np.float64) * STEP


def test_seed_search_opens_a_naive_upload_and_a_seeded_one() -> None:
    """The image comes back to the last digit; a seed of 32 bits only takes longer."""
    images, secret = _images(1), 1234
    largest = 1.01 * math.sqrt(_abar(690)) * np.abs(_signal(images)).max()
    a = math.sqrt(_abar(690))
    naive = _naive(images, 690, lambda d: torch.randn(d, generator=torch.Generator().manual_seed(secret)))
    found = _search(naive, lambda seed: _torch_noise(seed, 16), largest)
    assert found == [secret]
    recovered = (naive.ravel() - _torch_noise(secret, D)) / a
    np.testing.assert_allclose(recovered, _signal(images).ravel(), atol=1e-4)

    pixels = LabelledImages(images, torch.zeros(1, dtype=torch.int64)).pixels().numpy()
    seeded = decode_integers(release_integers(pixels, 0.0, CLIP, _abar(690), SeededNoise(secret)))
    found = _search(seeded, lambda seed: _seeded_noise(seed, 16), largest)
    assert found == [secret]
    recovered = (seeded.ravel() - _seeded_noise(secret, D)) / STEP
    np.testing.assert_array_equal(recovered, signal_integers(pixels, 0.0, CLIP, _abar(690)).ravel())


def test_seed_search_finds_nothing_in_our_upload(tmp_path: Path) -> None:
    """16 values of foreign noise fit by chance with probability below 0.2^16 each: in all below 1e-7."""
    images = _images(1)
    largest = 1.01 * math.sqrt(_abar(690)) * np.abs(_signal(images)).max()
    upload = decode_integers(_ours(images, 690, tmp_path)).astype(np.float64)
    assert _search(upload, lambda seed: _torch_noise(seed, 16), largest) == []
    assert _search(upload, lambda seed: _seeded_noise(seed, 16), largest) == []
