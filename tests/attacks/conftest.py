"""Gaussian images, for which every attack's best result is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedpdiff.attacks.linear import GaussianImages
from fedpdiff.attacks.reconstruction import Prior
from fedpdiff.diffusion.chain import Chain
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.denoiser_config import DenoiserConfig
from fedpdiff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule("linear", 1000)
SIDE = 8
SIZE = SIDE * SIDE


@dataclass(frozen=True)
class Gaussians:
    """Images u ~ N(mean, V diag(variances) V') of shape (1, 8, 8), float64; every class is the same."""

    mean: torch.Tensor
    axes: torch.Tensor
    variances: torch.Tensor

    def draw(self, count: int, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(count, SIZE, generator=generator, dtype=torch.float64)
        return self.images(self.mean + (normal * self.variances.sqrt()) @ self.axes)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(-1, 1, SIDE, SIDE)

    def expected(self, x: torch.Tensor, share: float) -> torch.Tensor:
        """E[u | x] for x = sqrt(share) u + sqrt(1 - share) z."""
        gain = share**0.5 * self.variances / (share * self.variances + 1 - share)
        off = x.flatten(1).double() - share**0.5 * self.mean
        return self.images(self.mean + (off @ self.axes.T * gain) @ self.axes).to(x.dtype)

    def expected_noise(self, x: torch.Tensor, start: float, ratio: float) -> torch.Tensor:
        """E[e | x] for x = sqrt(ratio) y + sqrt(1 - ratio) e, y an upload with ``start`` of the signal."""
        share = start * ratio
        off = x.flatten(1).double() - share**0.5 * self.mean
        gain = (1 - ratio) ** 0.5 / (share * self.variances + 1 - share)
        return self.images((off @ self.axes.T * gain) @ self.axes).to(x.dtype)

    def model(self) -> GaussianImages:
        return GaussianImages(
            self.mean.numpy()[None], np.ones(1), self.axes.numpy(), self.variances.numpy(), 0.0
        )

    def prior(self) -> Prior:
        def predict(x: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
            return self.expected(x, float(SCHEDULE.alpha_bar[t]))

        return Prior(predict, torch.from_numpy(SCHEDULE.alpha_bar), SCHEDULE.steps)

    def scaled(self, factor: float) -> Gaussians:
        """Return the distribution of ``factor`` u."""
        return Gaussians(factor * self.mean, self.axes, factor**2 * self.variances)

    def shifted(self, offset: float) -> Gaussians:
        """Return the distribution of u + offset."""
        return Gaussians(self.mean + offset, self.axes, self.variances)


def gaussians(variances: np.ndarray, seed: int = 0, mean: float = 0.3) -> Gaussians:
    """Return images with these variances along random axes and a random mean of this spread."""
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.standard_normal((SIZE, SIZE)))[0]
    centre = mean * generator.standard_normal(SIZE)
    return Gaussians(torch.from_numpy(centre), torch.from_numpy(axes), torch.from_numpy(variances))


def noisy(images: torch.Tensor, level: int, seed: int) -> torch.Tensor:
    """Return uploads of level ``level``."""
    share = float(SCHEDULE.alpha_bar[level])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=images.dtype)
    return share**0.5 * images + (1 - share) ** 0.5 * noise


class ExactNetwork(torch.nn.Module):
    """Stands in for a U-Net that predicts noise: the best possible one for Gaussian images."""

    def __init__(self, chain: Chain, images: Gaussians) -> None:
        super().__init__()
        self.chain, self.images = chain, images
        self.device = torch.device("cpu")

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> SimpleNamespace:
        ratio = float(self.chain.ratio[int(timestep) + 1])
        return SimpleNamespace(sample=self.images.expected_noise(x, self.chain.start, ratio))


def exact_denoiser(images: Gaussians, centre: float = 0.0, **settings: object) -> Denoiser:
    """Return the best possible denoiser; ``images`` are in the frame that its network sees."""
    config = DenoiserConfig.model_validate(
        {
            "kind": "personal",
            "objective": "noise",
            "schedule": "linear",
            "diffusion_steps": 1000,
            "t0": 300,
            "hand_off": 300,
            "last": 1000,
            "class_names": ["a"],
            "image_shape": [1, SIDE, SIDE],
            "clip": 10.0,
            **settings,
        }
    )
    network = ExactNetwork(config.chain(), images)
    return Denoiser(network, config, torch.full((1, SIDE, SIDE), centre))  # type: ignore[arg-type]


@pytest.fixture
def make_gaussians() -> Callable[..., Gaussians]:
    return gaussians


@pytest.fixture
def make_noisy() -> Callable[[torch.Tensor, int, int], torch.Tensor]:
    return noisy


@pytest.fixture
def make_exact_denoiser() -> Callable[..., Denoiser]:
    return exact_denoiser
