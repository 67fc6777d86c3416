"""Reading an attribute from one upload: exact rates of two Gaussians, chance, certainty, and the cap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from fedpdiff.attacks.attribute import AttributeReading, gaussian_reader, read_attribute, train_network_reader
from fedpdiff.attacks.linear import GaussianImages, fit_gaussian
from fedpdiff.attacks.uploads import Proportion, noised
from fedpdiff.errors import ConfigError, DataError
from fedpdiff.privacy import ceilings
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule("linear", 1000)
SHAPE = (1, 6, 6)
COVARIANCE = 0.3 * np.exp(-np.abs(np.subtract.outer(np.arange(36), np.arange(36))) / 4)
DIFFERENCE = 0.5 * np.sin(np.arange(36) / 5)


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian classes with one covariance, means +-DIFFERENCE / 2."""
    rng = np.random.default_rng(seed)
    values = np.arange(count) % 2
    x = rng.multivariate_normal(np.zeros(36), COVARIANCE, count) + (values[:, None] - 0.5) * DIFFERENCE
    return x.reshape(count, *SHAPE), values


def bayes(level: int) -> float:
    """Return the accuracy of the best reader, Phi(d / 2) with d the Mahalanobis distance of the uploads."""
    share = SCHEDULE.alpha_bar[level]
    noisy = share * COVARIANCE + (1 - share) * np.eye(36)
    return float(ndtr(0.5 * math.sqrt(share * DIFFERENCE @ np.linalg.solve(noisy, DIFFERENCE))))


def reading(level: int, network: bool = False) -> AttributeReading:
    share = float(SCHEDULE.alpha_bar[level])
    (public, values), (private, truth) = images(20_000, 1), images(20_000, 2)
    uploads = noised(private, share, np.random.default_rng(3))
    if network:
        reader = train_network_reader(public, values, share, torch.Generator().manual_seed(4), steps=300)
    else:
        reader = gaussian_reader(fit_gaussian(public, values), share)
    return read_attribute(reader, uploads, truth, mu_of(share, 10.0))


@pytest.mark.parametrize("level", [100, 300, 500])
def test_the_gaussian_reader_is_bayes_on_two_gaussians(level: int) -> None:
    found = reading(level)
    # 4 standard errors, and the fit's own error of about 36 / 20,000
    assert found.accuracy == pytest.approx(bayes(level), abs=4 * 0.0035 + 0.002)
    assert found.above_chance(0.999)
    assert found.chance == 0.5


def test_the_network_comes_close_to_bayes() -> None:
    found = reading(300, network=True)
    assert bayes(300) - 0.02 < found.accuracy < bayes(300) + 4 * 0.0035


def test_without_signal_every_reader_is_at_chance() -> None:
    share = 1e-12
    (public, values), (private, truth) = images(2000, 5), images(2000, 6)
    uploads = noised(private, share, np.random.default_rng(7))
    for reader in (
        gaussian_reader(fit_gaussian(public, values), share),
        train_network_reader(public, values, share, torch.Generator().manual_seed(8), steps=50),
    ):
        found = read_attribute(reader, uploads, truth, mu_of(share, 10.0))
        low, high = found.right.interval(0.999).low, found.right.interval(0.999).high
        assert low < 0.5 < high
        assert not found.above_chance(0.999)


def test_without_noise_separate_classes_are_read_without_error() -> None:
    share = 1 - 1e-9
    rng = np.random.default_rng(9)
    values = np.arange(600) % 3
    patterns = rng.standard_normal((3, *SHAPE))
    x = patterns[values] + 0.1 * rng.standard_normal((600, *SHAPE))
    public, private = slice(0, 400), slice(400, 600)
    for reader in (
        gaussian_reader(fit_gaussian(x[public], values[public]), share),
        train_network_reader(x[public], values[public], share, torch.Generator().manual_seed(10), steps=100),
    ):
        uploads = noised(x[private], share, rng)
        assert read_attribute(reader, uploads, values[private], 1e5).accuracy == 1


def test_the_network_reads_what_means_do_not_show() -> None:
    """Value 0: plus or minus one pattern, value 1: plus or minus another; both means are zero."""
    share = 0.7
    rng = np.random.default_rng(11)
    patterns = np.stack([np.kron(np.eye(2), np.ones((3, 3))), np.tile([[1.0, -1.0]], (6, 3))])
    values = np.arange(3000) % 2
    x = (patterns[values] * rng.choice([-1, 1], (3000, 1, 1)))[:, None]
    network = train_network_reader(
        x[:2000], values[:2000], share, torch.Generator().manual_seed(12), steps=300
    )
    linear = gaussian_reader(fit_gaussian(x[:2000], values[:2000]), share)
    uploads, truth = noised(x[2000:], share, rng), values[2000:]
    assert read_attribute(network, uploads, truth, 50.0).accuracy > 0.9
    assert read_attribute(linear, uploads, truth, 50.0).accuracy < 0.6


@pytest.mark.parametrize("level", [500, 690])
def test_two_opposite_images_are_read_at_the_cap_and_never_beyond(level: int) -> None:
    share, radius = float(SCHEDULE.alpha_bar[level]), 3.0
    edge = np.full(36, radius / 6)
    model = GaussianImages(np.stack([-edge, edge]), np.full(2, 0.5), np.zeros((0, 36)), np.zeros(0), 0.0)
    truth = np.arange(20_000) % 2
    uploads = noised(np.where(truth[:, None] == 1, edge, -edge), share, np.random.default_rng(13))
    found = read_attribute(gaussian_reader(model, share), uploads, truth, mu_of(share, radius))
    assert found.cap == pytest.approx(ceilings.balanced_accuracy(mu_of(share, radius)))
    interval = found.right.interval(0.999)
    assert interval.low < found.cap < interval.high


def test_chance_is_the_most_common_value() -> None:
    truth = np.array([0, 1, 1, 1])
    found = read_attribute(lambda y: np.zeros(len(y), np.int64), np.zeros((4, 2)), truth, 1.0)
    assert (found.right, found.chance) == (Proportion(1, 4), 0.75)
    assert found.cap == pytest.approx(ceilings.guessing(1.0, 0.75))
    assert not found.above_chance()


def test_training_repeats_for_a_seed_and_leaves_the_global_stream_alone() -> None:
    public, values = images(200, 14)
    before = torch.random.get_rng_state()
    guesses = [
        train_network_reader(public, values, 0.5, torch.Generator().manual_seed(seed), steps=20)(public)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(guesses[0], guesses[1])
    assert (guesses[0] != guesses[2]).any()


def test_what_cannot_be_read_is_refused() -> None:
    public, values = images(20, 15)
    generator = torch.Generator()
    with pytest.raises(DataError, match="10 or more"):
        train_network_reader(public[:9], values[:9], 0.5, generator)
    with pytest.raises(DataError, match="10 or more"):
        train_network_reader(public, values - 1, 0.5, generator)
    with pytest.raises(DataError, match="whole-number labels"):
        train_network_reader(public, values[:-1], 0.5, generator)
    with pytest.raises(ConfigError, match="alpha_bar"):
        gaussian_reader(fit_gaussian(public, values), 1.0)
    with pytest.raises(DataError, match="values from 0 up"):
        read_attribute(lambda y: values[:0], public[:0], values[:0], 1.0)
