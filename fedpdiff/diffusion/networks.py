"""Class-conditional U-Nets: three presets and any diffusers ``UNet2DModel`` config file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from fedpdiff.errors import ConfigError

_PLAIN = ("DownBlock2D", "UpBlock2D")
_ATTENTION = ("AttnDownBlock2D", "AttnUpBlock2D")


def _blocks(*with_attention: bool) -> dict[str, Any]:
    kinds = [_ATTENTION if attention else _PLAIN for attention in with_attention]
    return {
        "down_block_types": tuple(kind[0] for kind in kinds),
        "up_block_types": tuple(kind[1] for kind in reversed(kinds)),
    }


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {  # 0.16 M parameters, for 8x8 images
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        **_blocks(False, False),
    },
    "small": {  # 0.64 M parameters, for 16x16 to 32x32 images on a CPU
        "block_out_channels": (16, 32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        **_blocks(False, False, False),
    },
    "ddpm": {  # 35.7 M parameters: the CIFAR-10 network of Ho et al. 2020, appendix B
        "block_out_channels": (128, 256, 256, 256),
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "dropout": 0.1,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        **_blocks(False, True, False, False),
    },
}


def _read_config(path: str) -> dict[str, Any]:
    try:
        config = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"network = {path!r}: must be one of {', '.join(PRESETS)}, or a readable JSON file with a "
            f"diffusers UNet2DModel config ({error})"
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"network = {path!r}: the file must hold a JSON object with UNet2DModel's settings")
    return {key: value for key, value in config.items() if not key.startswith("_")}


def build_network(name: str, image_shape: tuple[int, int, int], conditions: int, seed: int) -> UNet2DModel:
    """Build a class-conditional U-Net with weights that ``seed`` decides.

    Parameters
    ----------
    name
        ``"tiny"``, ``"small"``, ``"ddpm"`` or the path of a diffusers ``UNet2DModel`` config (JSON). Image
        shape and number of conditions always come from the run.
    image_shape
        (C, H, W) with H = W.
    conditions
        Number of values of the conditioning label (classes, twice that with the clip flag).
    seed
        Seed of the initial weights.

    Raises
    ------
    ConfigError
        When the config file is unreadable, diffusers refuses it, or the network cannot take the image size.
    """
    settings = PRESETS[name] if name in PRESETS else _read_config(name)
    channels, size, _ = image_shape
    settings = {
        **settings,
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "class_embed_type": None,
        "num_class_embeds": conditions,
    }
    blocks = settings.get("block_out_channels", (1, 1, 1, 1))  # four is the number in diffusers' default
    if not isinstance(blocks, list | tuple):
        raise ConfigError(f"network = {name!r}: block_out_channels = {blocks!r} must be a list of numbers")
    halvings = len(blocks) - 1
    if size % 2**halvings:
        raise ConfigError(
            f"image-size = {size}: network {name!r} halves images {halvings} times, so the size must be a "
            f"multiple of {2**halvings}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's only: weights are made there
        try:
            return UNet2DModel(**settings)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"network = {name!r}: diffusers cannot build it: {error}") from error


def start_from_nothing(network: UNet2DModel) -> None:
    """Set the last layer to zero: what the network is added to is then where its training starts."""
    torch.nn.init.zeros_(network.conv_out.weight)
    torch.nn.init.zeros_(network.conv_out.bias)
