"""What a run's cost is computed from: rates of training, sampling, releasing, and of the server's part.

CPU seconds of one thread, so that other work on the machine disturbs less. The release is that of 28x28
grey images: noise, ledger and files; the server's part is checking a shard on arrival, writing it, and
drawing batches from the disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.batches import CleanImages
from fedpdiff.diffusion.chain import personal_chain
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import TrainingSettings, train_denoiser
from fedpdiff.federation.agreement import propose
from fedpdiff.federation.pooled import SpooledImages
from fedpdiff.federation.spool import Spool
from fedpdiff.federation.uploads import cut_shard, describe_release
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import ReleaseStore
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages
from simulations.benchmarks.release_speed import cpu_seconds
from simulations.benchmarks.table import Figure

CASES = (("tiny", 1, 8), ("small", 1, 16), ("small", 1, 28), ("small", 3, 32))  # network, channels, side
STEPS, BATCH = 10, 64
IMAGES = 10_000  # of the release
CLASSES = 10
SETTINGS: dict[str, bool | int | float | str] = {
    "image-size": 28,
    "epsilon": 10.0,
    "public-fraction": 0.0,
    "centre": "none",
    "clip-rule": "fixed",
    "device": "cpu",
}
KILO = 1e3


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures."""
    torch.set_num_threads(1)
    for name, channels, side in CASES:
        yield from _network(repetitions, name, (channels, side, side))
    found = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(prefix="fedpdiff-rates-") as folder:
            found.append(_release(Path(folder)))
    made, kept, arrived, drawn = zip(*found, strict=True)
    yield Figure("release of 28x28 grey images, ledger and files included", made, "images/s")
    yield Figure("disk that ledger and release take at the client, for each image", kept, "kB")
    yield Figure("arrival at the server, 8 bits per value: checks, hash, file", arrived, "MB/s")
    yield Figure("drawing batches from uploads on the disk", drawn, "images/s")


def _network(repetitions: int, name: str, shape: tuple[int, int, int]) -> Iterator[Figure]:
    """Yield how many images one network trains on, and is evaluated on, in a second."""
    network = build_network(name, shape, CLASSES, seed=0)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10 * BATCH) % CLASSES
    images = LabelledImages(torch.randint(0, 256, (len(labels), *shape)).to(torch.uint8), labels)
    batches, chain = CleanImages(images, 0.0), personal_chain(NoiseSchedule("linear", 1000))
    settings = TrainingSettings(STEPS, BATCH, 1e-3, 0, 0.9999, 1.0)
    noise, levels = torch.randn(BATCH, *shape), torch.full((BATCH,), 500)

    def train() -> None:
        train_denoiser(network, chain, batches, settings, generator)

    @torch.no_grad()
    def evaluate() -> None:
        for _ in range(STEPS):
            network(noise, levels, class_labels=labels[:BATCH])

    size = " x ".join(str(side) for side in shape)
    weights = sum(weight.numel() for weight in network.parameters()) * 4 / KILO**2
    yield Figure(f"weights of `{name}` at {size}, as float32", (weights,), "MB")
    for what, work in (("training", train), ("one evaluation when sampling", evaluate)):
        work()
        rates = tuple(STEPS * BATCH / cpu_seconds(work) for _ in range(repetitions))
        yield Figure(f"{what}, `{name}` at {size}, batch {BATCH}", rates, "images/s")


def _release(folder: Path) -> tuple[float, float, float, float]:
    """Return, of one release: images/s, kB per image on the client's disk, arrival in MB/s, draws/s."""
    config = RunConfig.parse(SETTINGS)
    none = LabelledImages(torch.empty((0, *config.image_shape), dtype=torch.uint8), torch.empty(0).long())
    agreement = propose(config, none)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (IMAGES, *config.image_shape), dtype=np.uint8)
    digests = [generator.bytes(32) for _ in range(IMAGES)]
    labels = torch.arange(IMAGES) % CLASSES
    private = PrivateImages(LabelledImages(torch.from_numpy(pixels), labels), digests, None)
    store = ReleaseStore(folder / "client", Policy.simulation(config.epsilon, config.delta))
    making = cpu_seconds(lambda: store.get_or_make(agreement.request(config), private, SecureNoise()))
    size = sum(path.stat().st_size for path in (folder / "client").rglob("*") if path.is_file())
    release, mechanism = store.read(), agreement.mechanism
    manifest = describe_release(release, mechanism, "client-0", 0, CLASSES)
    spool = Spool(folder / "server" / "client-0", manifest)
    spool.create()
    shards = [cut_shard(release, mechanism, "client-0", number) for number in range(manifest.shards)]

    def arrive() -> None:
        for shard in shards:
            spool.accept(*shard)
        spool.finish()

    arriving = cpu_seconds(arrive)
    images, rows = SpooledImages([spool]), torch.from_numpy(generator.integers(0, IMAGES, (STEPS, BATCH)))
    drawing = cpu_seconds(lambda: [images[some] for some in rows])
    return (
        IMAGES / making,
        size / IMAGES / KILO,
        spool.bytes / arriving / KILO**2,
        STEPS * BATCH / drawing,
    )
