"""The check on arrival: honest uploads pass, under-noised ones do not, at every width, size and number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.arrival import NoiseCheck, check_noise_level, noise_floor, noise_p_values
from fedpdiff.privacy.wire import decode, encode

LINEAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
WIDTHS = pytest.mark.parametrize("bits", [8, 4, 2])
SHAPES = pytest.mark.parametrize(
    ("n", "shape"), [(365, (1, 8, 8)), (1, (1, 8, 8)), (30, (1, 28, 28)), (10, (3, 32, 32))]
)


def _upload(n: int, shape: tuple[int, ...], abar: float, bits: int, scale: float = 1.0, seed: int = 0,
            signal: object = 0.0, noise: np.ndarray | None = None) -> np.ndarray:  # fmt: skip
    z = np.random.default_rng(seed).standard_normal((n, *shape)) if noise is None else noise
    x = math.sqrt(abar) * np.broadcast_to(signal, (n, *shape)) + scale * math.sqrt(1 - abar) * z
    y = np.clip(np.round(x * 4096), -32767, 32767).astype(np.int16)
    return decode(encode(y, bits), bits, y.shape)


def _worst_signal(abar: float, bits: int) -> float:
    """The constant pixel value beside which rounding leaves the least noise."""
    candidates = np.linspace(0, 2, 41)
    z = np.random.default_rng(9).standard_normal((1, 1, 100, 100))
    return float(
        candidates[
            np.argmin([_upload(1, (1, 100, 100), abar, bits, signal=c, noise=z).var() for c in candidates])
        ]
    )


@WIDTHS
@SHAPES
@pytest.mark.parametrize("t0", [300, 690])
def test_honest_uploads_pass_and_p_values_do_not_understate(
    n: int, shape: tuple[int, ...], bits: int, t0: int
) -> None:
    """P(p < 0.05) <= 0.05 for every test, with the signal that makes the noise look weakest.

    The number of small p-values in 60 uploads is binomial; false-alarm rate 1e-5 for each of the assertions.
    """
    abar, repeats = float(LINEAR[t0]), 60 if n < 100 else 20
    signal = _worst_signal(abar, bits)
    small: dict[str, int] = {}
    for seed in range(repeats):
        upload = _upload(n, shape, abar, bits, seed=seed, signal=signal)
        check_noise_level(upload, abar, bits)
        for name, p in noise_p_values(upload, abar, bits).items():
            small[name] = small.get(name, 0) + (p < 0.05)
    limit = binom.ppf(1 - 1e-5, repeats, 0.05)
    assert small and max(small.values()) <= limit


@WIDTHS
def test_noise_floor_is_close_to_the_noise_where_each_width_is_meant(bits: int) -> None:
    for t0 in range(400, 1000, 50):
        assert 0.95 < noise_floor(float(LINEAR[t0]), bits) / (1 - LINEAR[t0]) < 1.15
    assert noise_floor(float(LINEAR[1]), bits) == 0  # the steps are coarser than the noise


def test_nothing_is_refused_where_nothing_can_be_checked() -> None:
    check_noise_level(np.zeros((3, 1, 8, 8), np.float32), float(LINEAR[1]), 8)


@WIDTHS
@SHAPES
def test_constant_images_are_refused(n: int, shape: tuple[int, ...], bits: int) -> None:
    with pytest.raises(PrivacyError, match=r"less noise|twice"):
        check_noise_level(_upload(n, shape, 0.02, bits, scale=0.0, signal=1.0), 0.02, bits)


@WIDTHS
@pytest.mark.parametrize(
    ("n", "shape"), [(20, (1, 8, 8)), (3, (1, 28, 28)), (1, (3, 32, 32)), (365, (1, 8, 8))]
)
def test_noise_one_and_a_half_times_too_small_is_refused(n: int, shape: tuple[int, ...], bits: int) -> None:
    with pytest.raises(PrivacyError, match="less noise"):
        check_noise_level(_upload(n, shape, 0.02, bits, scale=1 / 1.5), 0.02, bits)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("n", "shape"), [(365, (1, 8, 8)), (30, (1, 28, 28)), (10, (3, 32, 32))])
def test_noise_1_2_times_too_small_is_refused(n: int, shape: tuple[int, ...], bits: int) -> None:
    with pytest.raises(PrivacyError, match="in total"):
        check_noise_level(_upload(n, shape, 0.02, bits, scale=1 / 1.2), 0.02, bits)


def test_noise_1_2_times_too_small_is_refused_under_a_real_signal() -> None:
    """Smooth images of the strength that epsilon = 50 allows on 8 x 8 (abar 0.5), hide nothing."""
    wave = np.cos(np.linspace(0, math.pi, 8))[:, None] * np.ones((1, 8))
    for scale, refused in ((1.0, False), (1 / 1.2, True)):
        upload = _upload(365, (1, 8, 8), 0.5, 8, scale=scale, signal=wave)
        if refused:
            with pytest.raises(PrivacyError, match="in total"):
                check_noise_level(upload, 0.5, 8)
        else:
            check_noise_level(upload, 0.5, 8)


def test_noise_scaled_by_b_squared_is_refused() -> None:
    abar = float(LINEAR[400])  # b^2 = 0.897 b
    with pytest.raises(PrivacyError, match="in total"):
        check_noise_level(_upload(365, (1, 8, 8), abar, 8, scale=math.sqrt(1 - abar)), abar, 8)


@WIDTHS
def test_one_image_without_noise_is_refused(bits: int) -> None:
    z = np.random.default_rng(0).standard_normal((400, 1, 8, 8))
    z[7] = 0
    with pytest.raises(PrivacyError, match="in one image"):
        check_noise_level(_upload(400, (1, 8, 8), 0.02, bits, noise=z), 0.02, bits)


def test_one_pixel_without_noise_is_refused() -> None:
    z = np.random.default_rng(0).standard_normal((400, 1, 28, 28))
    z[:, 0, 3, 5] = 0
    with pytest.raises(PrivacyError, match="at one pixel"):
        check_noise_level(_upload(400, (1, 28, 28), 0.02, 8, noise=z), 0.02, 8)


@WIDTHS
def test_shared_noise_is_refused(bits: int) -> None:
    """Two different images under the same noise, among 400."""
    z = np.random.default_rng(0).standard_normal((400, 1, 8, 8))
    z[300] = z[5]
    signal = np.random.default_rng(1).uniform(-1, 1, (400, 1, 8, 8))
    with pytest.raises(PrivacyError, match="between two images"):
        check_noise_level(_upload(400, (1, 8, 8), 0.02, bits, noise=z, signal=signal), 0.02, bits)


@WIDTHS
def test_a_repeated_row_is_refused_beyond_the_compared_pairs(bits: int) -> None:
    upload = _upload(3000, (1, 8, 8), 0.02, bits)
    check_noise_level(upload, 0.02, bits)
    upload[2900] = upload[2000]
    with pytest.raises(PrivacyError, match="twice"):
        check_noise_level(upload, 0.02, bits)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_must_be_finite(value: float) -> None:
    with pytest.raises(PrivacyError, match="finite"):
        check_noise_level(np.full((1, 1, 8, 8), value, np.float32), 0.02, 8)


@pytest.mark.parametrize("parts", [1, 7, 1000])
def test_parts_are_judged_as_the_whole(parts: int) -> None:
    upload = _upload(1300, (1, 8, 8), 0.02, 4)
    check = NoiseCheck(1300, (1, 8, 8), 0.02, 4)
    for start in range(0, 1300, parts):
        check.add(upload[start : start + parts])
    check.judge()
    assert check.p_values() == pytest.approx(noise_p_values(upload, 0.02, 4), rel=1e-9)


def test_a_repeat_in_another_part_is_refused() -> None:
    upload = _upload(1500, (1, 8, 8), 0.02, 8)
    check = NoiseCheck(1501, (1, 8, 8), 0.02, 8)
    for part in (upload[:1000], upload[1000:], upload[3:4]):
        check.add(part)
    with pytest.raises(PrivacyError, match="twice"):
        check.judge()


@pytest.mark.parametrize("shared", [False, True])
def test_shared_noise_is_refused_where_not_all_directions_of_large_images_are_kept(shared: bool) -> None:
    """Of 24 images of an upload of 1000; false alarms of an honest one: at most 1e-6."""
    z = np.random.default_rng(4).standard_normal((24, 3, 96, 96))
    if shared:
        z[20] = z[2]
    signal = np.random.default_rng(1).uniform(-1, 1, z.shape)
    upload = _upload(24, (3, 96, 96), 0.02, 8, noise=z, signal=signal)
    check = NoiseCheck(1000, (3, 96, 96), 0.02, 8)
    for start in (0, 12):
        check.add(upload[start : start + 12])
    if not shared:
        check.judge()
        return
    with pytest.raises(PrivacyError, match="between two images"):
        check.judge()
