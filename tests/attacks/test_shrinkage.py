"""How far to trust a reconstruction, where the best weight is known."""

from __future__ import annotations

import numpy as np
import pytest

from fedpdiff.attacks.image_quality import recovery
from fedpdiff.attacks.shrinkage import best_trust, trusted
from fedpdiff.errors import DataError


def test_trust_in_a_noisy_estimate_is_its_share_of_signal() -> None:
    """Truth of variance 1, error of variance 4: w = 1 / 5 and R = 4 / 5, for unseen images too."""
    rng = np.random.default_rng(0)
    truth, guess = rng.standard_normal((2, 500, 1, 8, 8)), np.zeros((500, 1, 8, 8))
    estimate = truth + 2 * rng.standard_normal(truth.shape)
    trust = best_trust(estimate[0], truth[0], guess)
    assert trust == pytest.approx(0.2, abs=0.01)
    assert recovery(estimate[1], truth[1], guess).score == pytest.approx(4, rel=0.05)
    assert recovery(trusted(estimate[1], guess, trust), truth[1], guess).score == pytest.approx(0.8, abs=0.02)


def test_trust_is_full_in_the_truth_and_none_in_its_opposite() -> None:
    truth = np.random.default_rng(1).standard_normal((20, 4))
    guess = np.ones((20, 4))
    assert best_trust(truth, truth, guess) == 1
    assert best_trust(2 * guess - truth, truth, guess) == 0
    assert best_trust(guess, truth, guess) == 0
    np.testing.assert_array_equal(trusted(truth, guess, 0.0), guess)
    np.testing.assert_allclose(trusted(truth, guess, 1.0), truth)
    with pytest.raises(DataError, match="one shape"):
        best_trust(truth, truth[:3], guess)
