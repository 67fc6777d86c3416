"""Inception features come from a local file, equal pytorch-fid's network, and never from the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_fid import inception as fid
from torchvision.models import inception_v3

from fedpdiff.errors import ConfigError
from fedpdiff.metrics import InceptionFeatures
from fedpdiff.metrics.inception import _blocks
from fedpdiff.types import LabelledImages


@pytest.mark.parametrize("weights", ["", "missing.pth"])
def test_a_missing_file_says_where_to_put_it(tmp_path, weights: str) -> None:
    with pytest.raises(ConfigError, match="inception-weights") as caught:
        InceptionFeatures(tmp_path / weights)
    assert "pt_inception-2015-12-05" in str(caught.value)
    assert 'features = "classifier"' in str(caught.value)


def test_another_file_is_refused(tmp_path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("not weights")
    for name in ("other.pth", "text.pth"):
        with pytest.raises(ConfigError, match="does not hold"):
            InceptionFeatures(tmp_path / name)


@pytest.mark.slow
def test_equals_pytorch_fids_own_network(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytorch-fid builds its network only around downloaded weights: hand it random ones in their place.
    # Its blocks differ from torchvision's in what they compute, not in their weights.
    weights = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    monkeypatch.setattr(fid, "load_state_dict_from_url", lambda url, progress: weights)
    theirs = fid.InceptionV3().eval()

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 1, 8, 8), generator=generator, dtype=torch.uint8)
    space = InceptionFeatures(tmp_path / "weights.pth")
    features = space.features(LabelledImages(images, torch.zeros(2).long()))
    with torch.no_grad():
        expected = theirs(images.float().div(255).expand(-1, 3, -1, -1))[0].flatten(1).numpy()
    assert features.shape == (2, 2048) and features.dtype == np.float64
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-6)


def test_blocks_end_before_the_classifier() -> None:
    layers = torch.nn.Module()
    layers.first, layers.avgpool = torch.nn.Conv2d(3, 4, 1), torch.nn.AdaptiveAvgPool2d(1)
    layers.dropout, layers.fc = torch.nn.Dropout(), torch.nn.Linear(4, 2)
    assert [type(layer).__name__ for layer in _blocks(layers)] == ["Conv2d", "AdaptiveAvgPool2d"]
