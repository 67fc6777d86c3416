"""A client samples with the moments of its own images above the hand-off, where the settings say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedpdiff.diffusion.class_gaussian import ClassGaussian
from fedpdiff.diffusion.denoiser import Denoiser
from tests.apps.client.conftest import Client

BELOW = {"hand_off_signal": 0.9}  # below t0, so that a first stage without moments differs


@pytest.fixture
def sampled(make_client: Callable[..., Client]) -> Callable[..., tuple[Client, dict[str, np.ndarray]]]:
    def make(**changes: Any) -> tuple[Client, dict[str, np.ndarray]]:
        client = make_client("simulation", **changes)
        client.all_actions()
        found = {}
        for name in ("local", "pfdm"):
            with np.load(client.folder / "samples" / f"{name}.npz") as file:
                found[name] = file["images"]
        return client, found

    return make


def test_samples_follow_the_base_and_it_is_of_the_own_images(sampled: Callable[..., Any]) -> None:
    client, with_moments = sampled(**BELOW)
    half = Denoiser.from_pretrained(client.folder / "state" / "personal")
    assert isinstance(half.base, ClassGaussian)
    train = client.data.train
    assert half.base.counts.tolist() == train.counts(10)
    own = train.of_classes([client.data.majority[0]]).pixels().flatten(1).mean(0)
    np.testing.assert_allclose(half.base.means[client.data.majority[0]], own, atol=1e-5)
    plain, without = sampled(personal_base="none", **BELOW)
    assert Denoiser.from_pretrained(plain.folder / "state" / "personal").base is None
    for name, images in with_moments.items():
        assert images.shape == without[name].shape and not np.array_equal(images, without[name])
