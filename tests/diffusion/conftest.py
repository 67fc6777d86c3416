"""Gaussian images, for which every estimate is known in closed form, and networks small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedpdiff.diffusion.chain import Chain
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.denoiser_config import DenoiserConfig
from fedpdiff.diffusion.networks import build_network
from fedpdiff.types import LabelledImages

SHAPE = (1, 2, 2)
SIZE = 4


class GaussianImages:
    """Clean images u ~ N(mean, cov) of shape (1, 2, 2); all estimates come straight from joint Gaussians."""

    def __init__(self, mean: torch.Tensor, cov: torch.Tensor) -> None:
        self.mean = mean
        self.cov = cov

    def shifted(self, offset: torch.Tensor) -> GaussianImages:
        """Return the distribution of u + offset."""
        return GaussianImages(self.mean + offset.flatten().double(), self.cov)

    def noisy(self, share: float) -> GaussianImages:
        """Return the distribution of sqrt(share) u + sqrt(1 - share) z."""
        noise = (1 - share) * torch.eye(SIZE, dtype=torch.float64)
        return GaussianImages(share**0.5 * self.mean, share * self.cov + noise)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return float64 images of shape (count, 1, 2, 2)."""
        normal = torch.randn(count, SIZE, generator=generator, dtype=torch.float64)
        return (self.mean + normal @ torch.linalg.cholesky(self.cov).T).view(-1, *SHAPE)

    def expected(self, x: torch.Tensor, share: float) -> torch.Tensor:
        """Return E[u | x] for x = sqrt(share) u + sqrt(1 - share) z, the Wiener estimate."""
        noisy = self.noisy(share)
        gain = share**0.5 * self.cov @ torch.linalg.inv(noisy.cov)
        return (self.mean + (x.flatten(1).double() - noisy.mean) @ gain.T).view(x.shape).to(x.dtype)

    def expected_noise(self, x: torch.Tensor, share: float) -> torch.Tensor:
        """Return E[z | x] for x = sqrt(share) u + sqrt(1 - share) z."""
        noisy = self.noisy(share)
        gain = (1 - share) ** 0.5 * torch.linalg.inv(noisy.cov)
        return ((x.flatten(1).double() - noisy.mean) @ gain.T).view(x.shape).to(x.dtype)


class ExactNetwork(torch.nn.Module):
    """Stands in for a U-Net: returns what the best possible network of ``chain`` would, per class.

    Parameters
    ----------
    chain
        The chain whose objective decides what the output means.
    classes
        Distribution of the clean images of each class, in the frame that the network sees.
    """

    def __init__(self, chain: Chain, classes: list[GaussianImages]) -> None:
        super().__init__()
        self.chain = chain
        self.classes = classes
        self.device = torch.device("cpu")
        self.asked: list[tuple[int, list[int]]] = []

    def optimum(self, images: GaussianImages, x: torch.Tensor, t: int) -> torch.Tensor:
        if self.chain.objective == "ambient":
            return images.expected(x, float(self.chain.alpha_bar[t]))
        ratio = float(self.chain.ratio[t])
        upload = images.noisy(self.chain.start)
        if self.chain.objective == "velocity":
            noise, start = upload.expected_noise(x, ratio), upload.expected(x, ratio)
            return ratio**0.5 * noise - (1 - ratio) ** 0.5 * start
        return upload.expected_noise(x, ratio)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> SimpleNamespace:
        self.asked.append((int(timestep), class_labels.tolist()))
        output = torch.empty_like(x)
        for label, images in enumerate(self.classes):
            rows = class_labels % len(self.classes) == label
            output[rows] = self.optimum(images, x[rows], int(timestep) + 1)  # diffusers counts from 0
        return SimpleNamespace(sample=output)


@pytest.fixture
def gaussian() -> GaussianImages:
    factor = torch.from_numpy(np.random.default_rng(7).normal(size=(SIZE, SIZE)))
    cov = 0.01 * factor @ factor.T + 0.02 * torch.eye(SIZE, dtype=torch.float64)
    return GaussianImages(torch.tensor([0.3, -0.2, 0.1, -0.3], dtype=torch.float64), cov)


@pytest.fixture
def exact_network() -> type[ExactNetwork]:
    return ExactNetwork


@pytest.fixture
def micro(tmp_path: Path) -> str:
    """Return a config file of a network with a few thousand parameters, for 8 x 8 images and smaller."""
    path = tmp_path / "micro.json"
    path.write_text(json.dumps(micro_settings()))
    return str(path)


@pytest.fixture
def micro_with_dropout(tmp_path: Path) -> str:
    path = tmp_path / "dropout.json"
    path.write_text(json.dumps({**micro_settings(), "dropout": 0.5}))
    return str(path)


def micro_settings() -> dict[str, object]:
    return {
        "_class_name": "UNet2DModel",
        "block_out_channels": [4, 8],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
    }


@pytest.fixture
def stripes() -> LabelledImages:
    """Two classes of 4 x 4 images: horizontal and vertical stripes of varying brightness."""
    rows = torch.arange(4).view(1, 1, 4, 1) % 2
    bright = torch.arange(120, 255, 9).view(-1, 1, 1, 1)
    horizontal = (rows * bright).expand(-1, 1, 4, 4)
    images = torch.cat([horizontal, horizontal.transpose(2, 3)]).to(torch.uint8).contiguous()
    return LabelledImages(images, torch.arange(2).repeat_interleave(len(bright)))


@pytest.fixture
def describe() -> object:
    """Return a function that makes a denoiser's description."""

    def make(kind: str, **changes: object) -> DenoiserConfig:
        values = {
            "kind": kind,
            "objective": "noise" if kind == "personal" else "ambient",
            "schedule": "linear",
            "diffusion_steps": 1000,
            "t0": 300,
            "hand_off": 300,
            "last": 1000,
            "class_names": ["a", "b"],
            "image_shape": [1, 4, 4],
            "clip": 10.0,
        }
        return DenoiserConfig.model_validate({**values, **changes})

    return make


@pytest.fixture
def own_images() -> LabelledImages:
    """Four classes of 1 x 2 x 3 images, of which there are 60, 9, 1 and none."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([label for label, count in enumerate((60, 9, 1, 0)) for _ in range(count)])
    mixed = torch.randn(6, 6, generator=generator)
    grey = 128 + 30 * torch.randn(len(labels), 6, generator=generator) @ mixed + 20 * labels.view(-1, 1)
    return LabelledImages(grey.clamp(0, 255).byte().view(-1, 1, 2, 3), labels)


@pytest.fixture
def based_halves(micro: str, describe: Any, stripes: LabelledImages) -> tuple[Denoiser, Denoiser]:
    """Return a global half over moments of uploads and a personal one with a base, both of two classes."""
    config = describe("continued", hand_off=200, base="gaussian")
    uploads = config.empty_base()
    uploads.means.copy_(torch.linspace(-1, 1, 32).view(2, 16))
    uploads.counts.fill_(50)
    centre = torch.full((1, 4, 4), 0.1)
    network = build_network(micro, (1, 4, 4), config.conditions, seed=1)
    global_half = Denoiser(network.eval(), config, centre, uploads)
    config = describe("personal", hand_off=200, base="gaussian")
    own = config.empty_base()
    own.fit(stripes, torch.Generator().manual_seed(0))
    network = build_network(micro, (1, 4, 4), config.conditions, seed=2)
    return global_half, Denoiser(network.eval(), config, torch.zeros(1, 4, 4), own)
