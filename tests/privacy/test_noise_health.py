"""The noise health check: silent on sound noise whatever the images, loud on every known way to spoil it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chi2

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import mechanism
from fedpdiff.privacy import noise_tails as tails
from fedpdiff.privacy.gaussian_noise import SecureNoise, SeededNoise, rounded_gaussian
from fedpdiff.privacy.mechanism import noise_sigma, release_with_signal
from fedpdiff.privacy.noise_health import FALSE_ALARM, TESTS, HealthReport, check_noise
from fedpdiff.privacy.noise_reuse import repeats, window_length

ALPHA_BAR = 0.00801553  # t0 = 690
SIGMA = noise_sigma(ALPHA_BAR)
SHAPE = (1000, 1, 28, 28)


def _sound(shape: tuple[int, ...] = SHAPE, sigma: float = SIGMA) -> np.ndarray:
    return rounded_gaussian(sigma, math.prod(shape), SecureNoise()).reshape(shape)


def _check(noise: np.ndarray, sigma: float = SIGMA, signal: np.ndarray | None = None) -> HealthReport:
    signal = np.zeros(noise.shape, np.int16) if signal is None else signal
    release = np.clip(np.rint(noise) + signal, -32767, 32767).astype(np.int16)
    return check_noise(release, signal, sigma)


@pytest.mark.parametrize(
    "shape", [(1, 1, 8, 8), (2, 1, 1, 1), (7, 3, 5, 4), (300, 1, 8, 8), (600, 3, 32, 32)]
)
@pytest.mark.parametrize("alpha_bar", [0.9999, 0.5, ALPHA_BAR])
def test_sound_noise_passes_for_any_images(shape: tuple[int, int, int, int], alpha_bar: float) -> None:
    """False-alarm rate 1e-12 each."""
    kinds = np.arange(math.prod(shape)).reshape(shape) % 2 * 2.0 - 1  # hard edges
    for pixels in (np.zeros(shape), np.ones(shape), kinds):
        release, signal = release_with_signal(pixels, -0.3, 3.0, alpha_bar, SecureNoise())
        report = check_noise(release, signal, noise_sigma(alpha_bar))
        assert report.ok, report.failed
        assert tuple(report.p_values) == TESTS


@pytest.mark.parametrize("sigma", [2.0, 40.0, SIGMA])
@pytest.mark.parametrize("shift", [0, 300, 12_000])
def test_p_values_hold_even_with_one_image_shifted(sigma: float, shift: int) -> None:
    """The least of 15 p-values over 150 releases; below 4e-7 / 15 at most once in 2.5 million runs.

    The shifted image stands for the other image of the worst pair: that its alarm is as rare is what the
    guarantee of a checked release rests on. Without leaving out the largest contribution this fails.
    """
    least = 1.0
    generator = np.random.default_rng()
    for _ in range(150):
        noise = np.rint(generator.normal(0, sigma, (6, 1, 5, 5)))
        noise[generator.integers(6)] += shift
        least = min(least, *_check(noise, sigma).p_values.values())
    assert least * 150 * len(TESTS) > 4e-7


def _one_image(noise: np.ndarray) -> np.ndarray:
    noise[17] *= 0.7
    return noise


def _one_pixel(noise: np.ndarray) -> np.ndarray:
    noise[:, 0, 3, 4] *= 0.7
    return noise


def _one_image_copied(noise: np.ndarray) -> np.ndarray:
    noise[900] = noise[11]
    return noise


def _shifted_negative(noise: np.ndarray) -> np.ndarray:
    noise[500:510] = -np.roll(noise[20:30], 3, axis=3)
    return noise


def _reseeded(noise: np.ndarray) -> np.ndarray:
    return np.tile(noise[:100], (len(noise) // 100, 1, 1, 1))


def _neighbours(noise: np.ndarray) -> np.ndarray:
    return (noise + 0.2 * np.roll(noise, 1, axis=3)) / math.sqrt(1.04)


def _vertical_neighbours(noise: np.ndarray) -> np.ndarray:
    return (noise + 0.2 * np.roll(noise, 1, axis=2)) / math.sqrt(1.04)


def _fixed_mixing(noise: np.ndarray) -> np.ndarray:
    rows = noise.reshape(len(noise), -1)
    d = rows.shape[1]
    mixing = np.eye(d) + 0.4 * np.random.default_rng(5).normal(size=(d, d)) / math.sqrt(d)
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    return (rows @ mixing.T).reshape(noise.shape)


def _common_part(noise: np.ndarray) -> np.ndarray:
    return math.sqrt(0.98) * noise + math.sqrt(0.02) * _sound((1, *noise.shape[1:]))


def _nearly_copied(noise: np.ndarray) -> np.ndarray:
    noise[2] = 0.6 * noise[1] + 0.8 * noise[2]
    return noise


def _smoothed(noise: np.ndarray) -> np.ndarray:
    """A brightness difference between two images would then show without any noise."""
    return noise - noise.mean(axis=(2, 3), keepdims=True)


def _batch_mean_removed(noise: np.ndarray) -> np.ndarray:
    return noise - noise.mean(axis=0)


def _normalised_images(noise: np.ndarray) -> np.ndarray:
    return noise * SIGMA / np.sqrt((noise**2).mean(axis=(1, 2, 3), keepdims=True))


def _normalised_pixels(noise: np.ndarray) -> np.ndarray:
    return noise * SIGMA / np.sqrt((noise**2).mean(axis=0))


SPOILED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "2 % too weak": (lambda noise: 0.98 * noise, "too weak in total"),
    "one image": (_one_image, "too weak in one image"),
    "one pixel": (_one_pixel, "too weak at one pixel"),
    "clamped": (lambda noise: np.clip(noise, -4096, 4096), "too weak in total"),
    "clamped far out": (lambda noise: np.clip(noise, -16000, 16000), "without large values"),
    "copied image": (_one_image_copied, "used twice"),
    "shifted and negated": (_shifted_negative, "used twice"),
    "re-seeded every 100 images": (_reseeded, "used twice"),
    "no noise": (lambda noise: 0 * noise, "used twice"),
    "neighbours": (_neighbours, "alike in neighbouring columns"),
    "vertical neighbours": (_vertical_neighbours, "alike in neighbouring rows"),
    "fixed mixing": (_fixed_mixing, "mixed across pixels"),
    "a common part": (_common_part, "shared by all images"),
    "nearly copied": (_nearly_copied, "alike in two images"),
    "image mean removed": (_smoothed, "too weak in one cosine pattern"),
    "batch mean removed": (_batch_mean_removed, "too weak in the mean of all images"),
    "normalised images": (_normalised_images, "equally strong in every image"),
    "normalised pixels": (_normalised_pixels, "equally strong at every pixel"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_noise_fails(name: str) -> None:
    """Each at its own test; images with real signal underneath."""
    spoil, test = SPOILED[name]
    signal = np.random.default_rng(1).integers(-300, 300, SHAPE).astype(np.int16)
    report = _check(spoil(_sound().astype(np.float64)), signal=signal)
    assert test in report.failed
    assert not report.ok


def test_channels_alike() -> None:
    noise = _sound((300, 3, 16, 16)).astype(np.float64)
    noise[:, 1] = (noise[:, 1] + 0.3 * noise[:, 0]) / math.sqrt(1.09)
    assert "alike in neighbouring channels" in _check(noise).failed


def test_few_small_images_copied() -> None:
    """Ten digits of 8x8: too few for averages, but exact reuse shows at once.

    With 64 values a copy's correlation lies about as far out as the threshold: whether it shows is chance.
    """
    noise = _sound((10, 1, 8, 8))
    noise[7] = noise[2]
    assert set(_check(noise).failed) - {"alike in two images"} == {"used twice"}


def test_a_generator_seeded_again_for_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the mechanism's own loop: two chunks draw the same noise. Sound until then."""
    pixels = np.zeros((60, 1, 28, 28))
    monkeypatch.setattr(mechanism, "_CHUNK_VALUES", 30 * 784)
    for broken in (False, True):
        if broken:
            monkeypatch.setattr(
                mechanism,
                "rounded_gaussian",
                lambda sigma, count, noise: rounded_gaussian(sigma, count, SeededNoise(1)),
            )
        release, signal = release_with_signal(pixels, 0.0, 1.0, ALPHA_BAR, SecureNoise())
        assert check_noise(release, signal, SIGMA).ok is not broken


def test_window_is_long_enough_for_the_chance() -> None:
    for count, sigma in ((1000, 2.0), (10**7, 40.0), (10**9, SIGMA)):
        w = window_length(count, sigma, 1e-14)
        likeliest = math.erf(0.5 / (sigma * math.sqrt(2)))
        assert count**2 * likeliest**w <= 1e-14 < count**2 * likeliest ** (w - 1)


def test_a_repetition_is_found_wherever_it_lies() -> None:
    """A run of 700 values among 2 million; about 22 places in it are looked at (none: 3e-10)."""
    noise = _sound((2500, 1, 28, 28)).astype(np.int16)
    zero = np.zeros_like(noise)
    assert not repeats(noise, zero, SIGMA, 1e-13)
    flat = noise.reshape(-1)
    flat[1_000_001:1_000_701] = -flat[77:777]
    assert repeats(noise, zero, SIGMA, 1e-13)


def test_tails_are_bounds() -> None:
    """Against exact distributions: never below, and no more than the rounding and Chernoff's bound above."""
    exact = chi2.cdf(700, 784)
    assert exact <= tails.weakest(700 * SIGMA**2, 784, SIGMA, 14.0) <= 1.2 * exact
    assert tails.weakest(700 * 4.0, 784, 2.0, 14.0) > 0.99  # rounding of half a step beside sigma 2
    for s in (1.0, 3.0, 6.0):
        form = 2 * math.sqrt(50) * s + 2 * s * s  # chi-square with 50 degrees, minus its mean
        assert (
            chi2.sf(50 + form, 50)
            <= tails.quadratic(form, math.sqrt(50), 1.0)
            == pytest.approx(math.exp(-s * s))
        )
    assert tails.all_values_within(3 * SIGMA, SIGMA, 1000) == pytest.approx(0.9973002**1000, rel=0.01)
    assert tails.all_values_within(0, 1e-9, 5) == pytest.approx(1)


def test_what_may_be_told_says_nothing_of_the_noise() -> None:
    report = _check(_sound((20, 1, 8, 8)))
    assert report.to_dict() == {"ok": True, "failed": [], "tests": list(TESTS), "false_alarm": FALSE_ALARM}
    assert HealthReport({"used twice": math.nan}).failed == ("used twice",)  # not a number is no pass
    assert 0 < FALSE_ALARM <= 1e-6


@pytest.mark.parametrize(
    ("release", "signal", "sigma", "message"),
    [
        (np.zeros((0, 1, 2, 2), np.int16), np.zeros((0, 1, 2, 2), np.int16), SIGMA, "at least one image"),
        (np.zeros((2, 1, 2, 2), np.int16), np.zeros((1, 1, 2, 2), np.int16), SIGMA, "one shape"),
        (np.zeros((2, 1, 2, 2), np.int32), np.zeros((2, 1, 2, 2), np.int16), SIGMA, "int16"),
        (np.zeros((2, 1, 2, 2), np.int16), np.zeros((2, 1, 2, 2), np.int16), 1.0, "larger one"),
        (np.zeros((2, 1, 2, 2), np.int16), np.zeros((2, 1, 2, 2), np.int16), math.nan, "standard deviation"),
    ],
)
def test_wrong_arguments_are_refused(
    release: np.ndarray, signal: np.ndarray, sigma: float, message: str
) -> None:
    with pytest.raises(PrivacyError, match=message):
        check_noise(release, signal, sigma)
