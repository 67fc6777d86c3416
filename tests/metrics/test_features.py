"""The default feature space: accurate, fast, repeatable, and checked when it arrives over the wire."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fedpdiff.errors import ConfigError, DataError, MessageError
from fedpdiff.metrics import (
    FEATURE_DIM,
    FeatureNetwork,
    accuracy,
    cached_feature_network,
    feature_training,
    frechet,
    train_feature_network,
)
from fedpdiff.types import LabelledImages


@pytest.fixture(scope="module")
def digits() -> tuple[LabelledImages, LabelledImages]:
    data = load_digits()
    images = torch.tensor((data.images * 255 / 16).round(), dtype=torch.uint8)[:, None]
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    shuffled = LabelledImages(images, labels).select(order)
    return shuffled.select(torch.arange(1000)), shuffled.select(torch.arange(1000, 1797))


@pytest.fixture(scope="module")
def network(digits: tuple[LabelledImages, LabelledImages]) -> FeatureNetwork:
    return train_feature_network(digits[0], num_classes=10, seed=1)


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_training, "STEPS", 5)


def random_images(count: int, channels: int = 1, size: int = 8, classes: int = 3) -> LabelledImages:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    return LabelledImages(images, torch.arange(count) % classes)


def test_recognises_digits_it_has_not_seen(
    digits: tuple[LabelledImages, LabelledImages], network: FeatureNetwork
) -> None:
    assert accuracy(network, digits[1]) > 0.95  # 0.99 for seeds 1 to 3


def test_features_tell_copies_of_few_images_from_variety(
    digits: tuple[LabelledImages, LabelledImages], network: FeatureNetwork
) -> None:
    train, test = digits
    real = network.features(test)
    few = train.select(torch.arange(500) % 40)
    assert frechet(real, network.features(few)) > 3 * frechet(
        real, network.features(train.select(torch.arange(500)))
    )


def test_features_are_scaled_over_the_training_images(
    digits: tuple[LabelledImages, LabelledImages], network: FeatureNetwork
) -> None:
    features = network.features(digits[0])
    assert features.shape == (1000, FEATURE_DIM)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(features.std(axis=0), 1, atol=1e-2)


@pytest.mark.usefixtures("short_training")
def test_the_seed_alone_decides_the_network() -> None:
    images = random_images(30)
    first = train_feature_network(images, 3, seed=1)
    torch.rand(7)  # other users of torch's global generator change nothing
    assert train_feature_network(images, 3, seed=1).hash == first.hash
    assert train_feature_network(images, 3, seed=2).hash != first.hash
    assert first.name == f"classifier:{first.hash[:8]}"


@pytest.mark.usefixtures("short_training")
def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_feature_network(random_images(30), 3, seed=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.usefixtures("short_training")
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 16), (1, 28), (3, 33), (1, 64)])
def test_every_size_gives_features_and_survives_the_wire(channels: int, size: int) -> None:
    images = random_images(12, channels, size)
    network = train_feature_network(images, 5, seed=1)  # classes 3 and 4 have no image
    arrived = FeatureNetwork.from_arrays(network.to_arrays())
    assert arrived.hash == network.hash
    np.testing.assert_array_equal(arrived.features(images), network.features(images))
    assert torch.equal(arrived.predict(images), network.predict(images))


@pytest.mark.usefixtures("short_training")
def test_the_cache_trains_once_per_images_and_seed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(30)
    first = cached_feature_network(tmp_path / "features", images, 3, seed=1)
    cached_feature_network(tmp_path / "features", random_images(31), 3, seed=1)
    assert len(list((tmp_path / "features").iterdir())) == 2
    monkeypatch.setattr(feature_training, "train_feature_network", None)
    assert cached_feature_network(tmp_path / "features", images, 3, seed=1).hash == first.hash


def test_no_images_give_no_features() -> None:
    network = FeatureNetwork(1, 8, 3)
    assert network.features(random_images(0)).shape == (0, FEATURE_DIM)
    assert accuracy(network, random_images(0)) is None


def test_wrong_inputs_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="image-size = 3"):
        FeatureNetwork(1, 3, 3)
    with pytest.raises(ConfigError, match=r"\(1, 8, 8\)"):
        FeatureNetwork(1, 8, 3).features(random_images(2, size=16))
    with pytest.raises(DataError, match="at least 2 images"):
        train_feature_network(random_images(1), 3, seed=1)
    with pytest.raises(DataError, match="labels 0 to 1"):
        train_feature_network(random_images(9), 2, seed=1)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "dtype", "nan", "architecture"])
def test_a_tampered_network_is_refused(fault: str) -> None:
    arrays = FeatureNetwork(1, 8, 3).to_arrays()
    weight = arrays["head.weight"]
    changes = {
        "extra": {"more": weight},
        "shape": {"head.weight": weight[:1]},
        "dtype": {"head.weight": weight.astype(np.float64)},
        "nan": {"head.weight": np.full_like(weight, np.nan)},
        "architecture": {"architecture": np.zeros(2)},
    }
    arrays.update(changes.get(fault, {}))
    if fault == "missing":
        del arrays["head.weight"]
    with pytest.raises(MessageError, match="feature network"):
        FeatureNetwork.from_arrays(arrays)
