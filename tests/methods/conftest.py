"""A network of a few thousand parameters and images to train it on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from fedpdiff.diffusion.batches import CleanImages
from fedpdiff.diffusion.chain import personal_chain
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import TrainingSettings
from fedpdiff.methods.base import LocalRound
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

STEPS = 6


@pytest.fixture
def micro(tmp_path: Path) -> str:
    settings = {
        "block_out_channels": [4, 8],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
    }
    path = tmp_path / "micro.json"
    path.write_text(json.dumps(settings))
    return str(path)


@pytest.fixture
def make_network(micro: str) -> Callable[[], UNet2DModel]:
    """Return what builds the same first network again and again."""
    return lambda: build_network(micro, (1, 4, 4), 2, seed=1)


@pytest.fixture
def images() -> LabelledImages:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (24, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return LabelledImages(pixels, torch.arange(2).repeat(12))


@pytest.fixture
def local_round(images: LabelledImages) -> Callable[..., LocalRound]:
    """Return ``local_round(network, span, generator)``: a client's training of these steps out of 6."""

    def make(network: UNet2DModel, span: range, generator: torch.Generator) -> LocalRound:
        return LocalRound(
            network=network,
            chain=personal_chain(NoiseSchedule("linear", 1000)),
            batches=CleanImages(images, 1.0),
            settings=TrainingSettings(
                steps=STEPS,
                batch_size=8,
                learning_rate=5e-3,
                warmup_steps=2,
                ema_decay=0.0,
                gradient_clip=1.0,
            ),
            span=span,
            generator=generator,
        )

    return make
