"""The Gaussian model against dense linear algebra, and Wiener's estimate against its closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from fedpdiff.attacks.linear import GaussianImages, fit_gaussian, wiener
from fedpdiff.attacks.uploads import noised
from fedpdiff.errors import ConfigError, DataError

ALPHA_BAR = 0.3
A, B = ALPHA_BAR**0.5, (1 - ALPHA_BAR) ** 0.5


def data(count: int, dimension: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=count - classes)])
    factor = rng.standard_normal((dimension, dimension)) / dimension**0.5
    return rng.standard_normal((classes, dimension))[labels] + rng.standard_normal(
        (count, dimension)
    ) @ factor, labels


def covariance(model: GaussianImages) -> np.ndarray:
    dimension = model.means.shape[1]
    on_axes = model.axes.T @ model.axes
    return (model.axes.T * model.variances) @ model.axes + model.rest * (np.eye(dimension) - on_axes)


@pytest.mark.parametrize("dimension", [7, 60])  # fewer and more values than images
def test_the_fit_is_the_covariance_around_the_class_means(dimension: int) -> None:
    images, labels = data(40, dimension)
    model = fit_gaussian(images.reshape(40, 1, 1, dimension), labels)
    for label in range(3):
        np.testing.assert_allclose(model.means[label], images[labels == label].mean(0), atol=1e-12)
    off = images - model.means[labels]
    np.testing.assert_allclose(covariance(model), off.T @ off / (40 - 3), atol=1e-10)
    np.testing.assert_allclose(model.axes @ model.axes.T, np.eye(len(model.axes)), atol=1e-10)
    np.testing.assert_allclose(model.shares, np.bincount(labels) / 40)


@pytest.mark.parametrize("dimension", [20, 60])
def test_a_low_rank_keeps_the_total_variance(dimension: int) -> None:
    images, labels = data(40, dimension)
    full, low = fit_gaussian(images, labels), fit_gaussian(images, labels, rank=5)
    np.testing.assert_allclose(low.variances, full.variances[:5], rtol=1e-9)
    assert low.rest * (dimension - 5) == pytest.approx(full.variances[5:].sum())


@pytest.mark.parametrize("rank", [None, 3])
def test_wiener_and_density_equal_dense_algebra(rank: int | None) -> None:
    images, labels = data(200, 9)
    model = fit_gaussian(images, labels, rank)
    uploads = noised(images[:20], ALPHA_BAR, np.random.default_rng(1))
    spread = covariance(model)
    noisy = A * A * spread + B * B * np.eye(9)
    mean = model.means[labels[:20]]
    dense = mean + (uploads - A * mean) @ (A * spread @ np.linalg.inv(noisy)).T
    np.testing.assert_allclose(wiener(model, uploads, labels[:20], ALPHA_BAR), dense, atol=1e-10)
    each = np.stack([multivariate_normal(A * m, noisy).logpdf(uploads) for m in model.means], axis=1)
    np.testing.assert_allclose(model.log_densities(uploads, ALPHA_BAR), each, atol=1e-9)
    np.testing.assert_allclose(
        model.log_density(uploads, ALPHA_BAR, labels[:20]), each[np.arange(20), labels[:20]], atol=1e-9
    )
    mixture = np.log((np.exp(each) * model.shares).sum(1))
    np.testing.assert_allclose(model.log_density(uploads, ALPHA_BAR), mixture, atol=1e-9)


def test_no_other_linear_estimate_has_a_lower_error() -> None:
    """Under the model's own distribution the gain is optimal: scaling it either way costs."""
    rng = np.random.default_rng(2)
    model = GaussianImages(np.zeros((1, 6)), np.ones(1), np.eye(6), np.linspace(0.1, 3, 6), 0.0)
    truth = rng.standard_normal((20_000, 6)) * model.variances**0.5
    labels = np.zeros(len(truth), np.int64)
    estimate = wiener(model, noised(truth, ALPHA_BAR, rng), labels, ALPHA_BAR)
    errors = {k: ((k * estimate - truth) ** 2).sum(1).mean() for k in (0.9, 1.0, 1.1)}
    expected = (model.variances * B * B / (A * A * model.variances + B * B)).sum()
    assert errors[1.0] == pytest.approx(expected, rel=0.02)  # 4 standard errors
    assert errors[1.0] < min(errors[0.9], errors[1.1])


def test_without_labels_all_images_are_one_class() -> None:
    images, _ = data(40, 7)
    model = fit_gaussian(images)
    assert model.classes == 1
    np.testing.assert_allclose(covariance(model), np.cov(images, rowvar=False), atol=1e-10)


def test_what_cannot_be_fitted_or_estimated_is_refused() -> None:
    images, labels = data(40, 7)
    with pytest.raises(DataError, match="every class"):
        fit_gaussian(images, labels * 2)  # nothing in class 1
    with pytest.raises(DataError, match="more images than classes"):
        fit_gaussian(images[:3], np.arange(3))
    with pytest.raises(DataError, match="there are none"):
        fit_gaussian(images[:0])
    with pytest.raises(DataError, match="whole-number labels"):
        fit_gaussian(images, labels[:-1])
    with pytest.raises(DataError, match="whole-number labels"):
        fit_gaussian(images, labels + 0.5)
    with pytest.raises(ConfigError, match="rank = 0"):
        fit_gaussian(images, labels, 0)
    model = fit_gaussian(images, labels)
    with pytest.raises(DataError, match="3 classes"):
        wiener(model, images, labels + 1, ALPHA_BAR)
    with pytest.raises(ConfigError, match="alpha_bar = 1"):
        wiener(model, images, labels, 1.0)
    with pytest.raises(DataError, match="not finite"):
        wiener(model, images * np.nan, labels, ALPHA_BAR)
