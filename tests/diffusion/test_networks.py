"""Networks: presets, config files, and weights that only the seed decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedpdiff.diffusion.networks import build_network
from fedpdiff.errors import ConfigError

PARAMETERS = {"tiny": 164_625, "small": 637_683, "ddpm": 35_746_307 + 10 * 512}
"""With 10 classes; 35,746,307 is the size of Ho et al.'s unconditional CIFAR-10 network in diffusers."""


@pytest.mark.parametrize(
    ("name", "shape"), [("tiny", (1, 8, 8)), ("small", (3, 16, 16)), ("ddpm", (3, 32, 32))]
)
def test_preset_sizes(name: str, shape: tuple[int, int, int]) -> None:
    network = build_network(name, shape, 10, seed=1)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    assert network.config["num_class_embeds"] == 10
    if name != "ddpm":
        x = torch.zeros(2, *shape)
        assert network(x, torch.tensor(3), class_labels=torch.tensor([0, 9])).sample.shape == x.shape


def test_the_seed_decides_the_weights_and_nothing_else_changes(micro: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_network(micro, (1, 4, 4), 3, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = build_network(micro, (1, 4, 4), 3, seed=1).state_dict()
    other = build_network(micro, (1, 4, 4), 3, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_run_decides_shape_and_conditions_of_a_config_file(tmp_path: Path, micro: str) -> None:
    settings = json.loads(Path(micro).read_text())
    settings |= {"sample_size": 64, "in_channels": 4, "out_channels": 4, "num_class_embeds": 7}
    settings |= {"class_embed_type": "identity", "_diffusers_version": "0.0"}
    path = tmp_path / "other.json"
    path.write_text(json.dumps(settings))
    network = build_network(str(path), (3, 8, 8), 5, seed=1)
    labels = torch.tensor([4, 0])
    assert network(torch.zeros(2, 3, 8, 8), torch.tensor(0), class_labels=labels).sample.shape == (2, 3, 8, 8)
    with pytest.raises(IndexError):
        network(torch.zeros(1, 3, 8, 8), torch.tensor(0), class_labels=torch.tensor([5]))


@pytest.mark.parametrize(("name", "size", "multiple"), [("tiny", 9, 2), ("small", 10, 4), ("ddpm", 28, 8)])
def test_impossible_sizes(name: str, size: int, multiple: int) -> None:
    message = f"image-size = {size}: network '{name}' halves images .* multiple of {multiple}"
    with pytest.raises(ConfigError, match=message):
        build_network(name, (1, size, size), 10, seed=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a readable JSON file"),
        ("[1]", "must hold a JSON object"),
        ('{"block_out_channel": [4, 8]}', "diffusers cannot build it"),
        ('{"block_out_channels": [4, 8]}', "diffusers cannot build it"),
        ('{"block_out_channels": 8}', "block_out_channels = 8 must be a list"),
        ('{"block_out_channels": [4, 8, 8, 8], "norm_num_groups": 3}', "diffusers cannot build it"),
    ],
)
def test_bad_config_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="network = ") as error:
        build_network(str(path), (1, 8, 8), 10, seed=1)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_missing_config_file() -> None:
    with pytest.raises(ConfigError, match=r"network = 'no/such.json': must be one of tiny, small, ddpm"):
        build_network("no/such.json", (1, 8, 8), 10, seed=1)
