"""Training of the feature network: deterministic for a seed, seconds on one core, cached on request."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from fedpdiff.errors import DataError
from fedpdiff.metrics.features import FeatureNetwork
from fedpdiff.rng import torch_generator
from fedpdiff.types import LabelledImages

STEPS = 300
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.1  # keeps features of one class from collapsing onto a point


def train_feature_network(
    images: LabelledImages, num_classes: int, seed: int, device: str | torch.device = "cpu"
) -> FeatureNetwork:
    """Train the classifier that names the default feature space.

    Every class present is drawn equally often, so that a rare class is recognised as well as a common one.

    Parameters
    ----------
    images
        Real training images. In a simulation those of all clients; in a deployment public images only,
        because whatever is trained on private images is outside the guarantee.
    num_classes
        K of the run; classes without images are allowed and never predicted.
    seed
        Weights and batches follow from it: the same seed, images, device and number of threads give the
        same network.
    device
        Where to train.

    Returns
    -------
    FeatureNetwork
        In evaluation mode, on the CPU, features scaled over ``images``.

    Raises
    ------
    DataError
        When there are fewer than two images or a label is not below ``num_classes``.
    """
    network = _initialise(images, num_classes, seed).to(device)
    batches = torch_generator(seed, "features", "batches")
    _optimise(network, images, batches, torch.device(device), STEPS)
    network = network.cpu().eval()
    raw = torch.from_numpy(network.features(images)).float()
    network.feature_mean.copy_(raw.mean(dim=0))
    network.feature_std.copy_(raw.std(dim=0).clamp_min(1e-3))
    return network


def train_classifier(images: LabelledImages, num_classes: int, seed: int) -> FeatureNetwork:
    """Train the same network where only its answers count, in half as many steps.

    A step draws no more images than there are. Features are not scaled, and memory layout and optimiser are
    those that are fastest on a CPU.

    Parameters, result and errors as in :func:`train_feature_network`.
    """
    network = _initialise(images, num_classes, seed).to(memory_format=torch.channels_last)
    batches = torch_generator(seed, "features", "batches")
    size = min(BATCH_SIZE, len(images))
    _optimise(network, images, batches, torch.device("cpu"), max(2, STEPS // 2), size, fused=True)
    return network.eval()


def cached_feature_network(
    folder: Path, images: LabelledImages, num_classes: int, seed: int, device: str | torch.device = "cpu"
) -> FeatureNetwork:
    """Return :func:`train_feature_network`'s result, from ``folder`` if the same training was done before.

    The file is named by a hash of images, labels and settings; it holds arrays only, no pickle.
    """
    path = Path(folder) / f"features-{_training_key(images, num_classes, seed)[:16]}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return FeatureNetwork.from_arrays(dict(stored))
    network = train_feature_network(images, num_classes, seed, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, **network.to_arrays())  # type: ignore[arg-type]
    os.replace(file.name, path)
    return network


def _initialise(images: LabelledImages, num_classes: int, seed: int) -> FeatureNetwork:
    if len(images) < 2 or int(images.labels.max()) >= num_classes:
        raise DataError(
            f"a feature network needs at least 2 images with labels 0 to {num_classes - 1}, but there are "
            f"{len(images)} images"
        )
    _, channels, size, _ = images.images.shape
    with torch.random.fork_rng(devices=[]):
        # torch initialises layers from its global generator: seed it here and put it back afterwards.
        torch.manual_seed(torch_generator(seed, "features", "weights").initial_seed())
        return FeatureNetwork(channels, size, num_classes)


def _optimise(
    network: FeatureNetwork,
    images: LabelledImages,
    generator: torch.Generator,
    device: torch.device,
    steps: int,
    batch_size: int = BATCH_SIZE,
    fused: bool = False,
) -> None:
    counts = torch.tensor(images.counts(network.architecture[2]), dtype=torch.float64)
    weights = (1.0 / counts.clamp_min(1.0))[images.labels]
    drawn = torch.from_numpy(_draw(weights.numpy(), steps * batch_size, generator))
    pixels, labels = images.images.to(device), images.labels.to(device)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    network.train()
    for index in drawn.split(batch_size):
        index = index.to(device)
        logits = network(pixels[index].float().div(127.5).sub(1.0))[1]
        loss = functional.cross_entropy(logits, labels[index], label_smoothing=LABEL_SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _draw(weights: np.ndarray, count: int, generator: torch.Generator) -> np.ndarray:
    """Draw ``count`` positions with these weights by inverting the cumulative sum (any number of images)."""
    cumulative = np.cumsum(weights)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    return np.searchsorted(cumulative, uniform * cumulative[-1], side="right").clip(max=len(weights) - 1)


def _training_key(images: LabelledImages, num_classes: int, seed: int) -> str:
    digest = hashlib.sha256()
    recipe = (STEPS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING)
    digest.update(repr((num_classes, seed, recipe, tuple(images.images.shape))).encode())
    digest.update(images.images.contiguous().numpy().tobytes())
    digest.update(images.labels.contiguous().numpy().tobytes())
    return digest.hexdigest()
