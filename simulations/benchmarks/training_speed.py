"""Gradient steps per second against the loop of diffusers' unconditional image generation example.

The reference does what that example does, on the same network, batch and precision: PIL images through
torchvision's transforms and a DataLoader, ``DDPMScheduler.add_noise``, AdamW, gradient clipping, a cosine
schedule, an EMA, and the loss read after every step for the progress bar. Steps of the two alternate in short
stretches, so that other work on the machine meets both alike. Beside it, ours under bfloat16 autocast
(``precision``) against ours in float32.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fedpdiff.diffusion.batches import CleanImages
from fedpdiff.diffusion.chain import personal_chain
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import TrainingSettings, train_denoiser
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages
from simulations.benchmarks.table import Figure

CASES = (("tiny", 8, 1, 32), ("small", 16, 1, 64), ("small", 28, 1, 64), ("small", 32, 3, 64))
CLASSES, IMAGES = 10, 2000
SECONDS = 4.0  # of each stretch, roughly
RATE = 1e-3


class _Pictures(Dataset[tuple[torch.Tensor, int]]):
    """The images as a data set of PIL images, transformed when they are asked for, as in the example."""

    def __init__(self, images: LabelledImages, size: int) -> None:
        grey = images.images.shape[1] == 1
        arrays = images.images[:, 0] if grey else images.images.permute(0, 2, 3, 1)
        self._images = [Image.fromarray(array) for array in arrays.numpy()]
        self._labels = images.labels.tolist()
        self._transform = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(self._images[index]), self._labels[index]


def noise_images(shape: tuple[int, int, int]) -> LabelledImages:
    """Return images of uniform noise: what they show makes no difference to the time."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *shape), dtype=np.uint8)
    return LabelledImages(torch.from_numpy(pixels), torch.arange(IMAGES) % CLASSES)


def picture_batches(images: LabelledImages, batch: int) -> DataLoader[tuple[torch.Tensor, int]]:
    """Return the images as the example draws them."""
    return DataLoader(_Pictures(images, images.images.shape[-1]), batch_size=batch, shuffle=True)


def reference(
    network: UNet2DModel,
    loader: DataLoader[tuple[torch.Tensor, int]],
    steps: int,
    bfloat16: bool = False,
) -> None:
    """Train for some steps as diffusers' example does, on the network's device."""
    network.train()
    device = network.device
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = get_cosine_schedule_with_warmup(optimizer, 0, steps)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75)
    done = 0
    while done < steps:
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            noise = torch.randn(images.shape, device=device)
            levels = torch.randint(0, 1000, (len(images),), device=device)
            noisy = scheduler.add_noise(images, noise, levels)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                output = network(noisy, levels, class_labels=labels).sample
            loss = torch.nn.functional.mse_loss(output.float(), noise.float())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            average.step(network.parameters())
            loss.detach().item()
            done += 1
            if done == steps:
                break


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures."""
    for network, size, channels, batch in CASES:
        images = noise_images((channels, size, size))
        ours, theirs = (build_network(network, (channels, size, size), CLASSES, seed=0) for _ in range(2))
        loader = picture_batches(images, batch)
        steps = _steps_in_a_stretch(ours, images, batch)
        found = []
        for _ in range(repetitions):
            started = time.perf_counter()
            _train(ours, images, batch, steps)
            middle = time.perf_counter()
            reference(theirs, loader, steps)
            ended = time.perf_counter()
            _train(ours, images, batch, steps, bfloat16=True)
            own, other, short = middle - started, ended - middle, time.perf_counter() - ended
            found.append((other / own, own / short))
        against, halved = zip(*found, strict=True)
        what = f"gradient steps per second, `{network}` at {channels} x {size} x {size}, batch {batch}"
        yield Figure(f"{what}, against the loop of diffusers' example", against, "x", 1.3)
        yield Figure(f"{what}, bfloat16 against float32", halved, "x")


def _train(
    network: UNet2DModel, images: LabelledImages, batch: int, steps: int, bfloat16: bool = False
) -> None:
    settings = TrainingSettings(steps, batch, RATE, 0, 0.9999, 1.0, bfloat16=bfloat16)
    chain = personal_chain(NoiseSchedule("linear", 1000))
    train_denoiser(network, chain, CleanImages(images, 0.0), settings, torch.Generator().manual_seed(0))


def _steps_in_a_stretch(network: UNet2DModel, images: LabelledImages, batch: int) -> int:
    _train(network, images, batch, 3)
    started = time.perf_counter()
    _train(network, images, batch, 10)
    return max(5, round(10 * SECONDS / (time.perf_counter() - started)))
