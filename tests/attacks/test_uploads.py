"""What the attacks on uploads share: rows, levels and exact proportions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedpdiff.attacks.uploads import Proportion, noised, rows, signal_and_noise
from fedpdiff.errors import ConfigError, DataError


def test_rows_flatten_arrays_and_tensors_alike() -> None:
    images = torch.arange(24, dtype=torch.float32).view(2, 3, 2, 2)
    np.testing.assert_array_equal(rows(images), np.arange(24.0).reshape(2, 12))
    assert rows(np.zeros((0, 3, 2, 2))).shape == (0, 12)
    with pytest.raises(DataError, match="pixels"):
        rows(np.zeros(3))
    with pytest.raises(DataError, match="not finite"):
        rows(np.array([[np.inf]]))


def test_public_images_get_the_noise_of_the_level() -> None:
    clean = np.full((200, 1, 10, 10), 0.5)
    y = noised(clean, 0.3, np.random.default_rng(0))
    assert y.shape == clean.shape
    # 4.5 standard errors of 20,000 values
    assert y.mean() == pytest.approx(0.5 * 0.3**0.5, abs=4.5 * (0.7 / 20_000) ** 0.5)
    assert y.var() == pytest.approx(0.7, rel=4.5 * (2 / 20_000) ** 0.5)
    for wrong in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="alpha_bar"):
            signal_and_noise(wrong)


def test_proportions_know_their_uncertainty() -> None:
    found = Proportion(7, 100)
    assert found.rate == 0.07
    assert found.standard_error == pytest.approx(0.0255, abs=1e-4)
    interval = found.interval()
    # Clopper & Pearson's limits, by their definition through the beta distribution
    assert (interval.low, interval.high) == pytest.approx((0.0286, 0.1389), abs=1e-4)
    assert Proportion(0, 10).interval().high == pytest.approx(1 - 0.025**0.1)
    for hits, trials in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(DataError, match="no proportion"):
            Proportion(hits, trials)
