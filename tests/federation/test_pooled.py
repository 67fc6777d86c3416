"""Pooled uploads on the disk: what is drawn of them is what would be drawn of all of them in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.batches import Uploads
from fedpdiff.diffusion.denoiser import to_arrays
from fedpdiff.errors import DataError
from fedpdiff.federation import pooled
from fedpdiff.federation.networks import Trainer
from fedpdiff.federation.pooled import SpooledImages, pooled_images
from fedpdiff.federation.protocol import Mechanism, ReleaseManifest, ShardManifest
from fedpdiff.federation.spool import Spool, rows_per_shard, shard_digest
from fedpdiff.privacy.gaussian_noise import SeededNoise
from fedpdiff.privacy.mechanism import release_integers
from fedpdiff.privacy.wire import decode, encode

SITES = {"a": 40, "b": 23}  # the last shard of each is not full
ODD = [1, 5, 5]  # 25 values: at 4 and 2 bits, images begin in mid-byte

Pooled = tuple[list[Spool], torch.Tensor]
Fill = Callable[[Mechanism], Pooled]


@pytest.fixture
def fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Return ``fill(mechanism)``: spools of two sites in shards of a few images, and what they decode to."""
    monkeypatch.setattr("fedpdiff.federation.spool.SHARD_BYTES", 100)

    def make(mechanism: Mechanism) -> Pooled:
        spools, values = zip(
            *(fill_one(tmp_path / site, mechanism, count) for site, count in SITES.items()), strict=True
        )
        return list(spools), torch.from_numpy(np.concatenate(values))

    return make


def fill_one(folder: Path, mechanism: Mechanism, count: int) -> tuple[Spool, np.ndarray]:
    rng, shape, bits = np.random.default_rng(count), mechanism.image_shape, mechanism.wire_bits
    labels, rows = rng.permutation(count) % 10, rows_per_shard(mechanism)
    integers = release_integers(
        rng.uniform(-1, 1, (count, *shape)), 0.0, mechanism.clip, mechanism.alpha_bar, SeededNoise(count)
    )
    manifest = ReleaseManifest(
        **mechanism.model_dump(),
        fingerprint="0" * 64,
        site=folder.name,
        class_counts=np.bincount(labels, minlength=10).tolist(),
        rows_per_shard=rows,
        shards=-(-count // rows),
        certificate="",
    )
    spool, values = Spool(folder, manifest), []
    spool.create()
    for number, first in enumerate(range(0, count, rows)):
        codes, own = encode(integers[first : first + rows], bits), labels[first : first + rows]
        values.append(decode(codes, bits, (len(own), *shape)))
        shard = ShardManifest(site=folder.name, shard=number, rows=len(own), sha256=shard_digest(codes, own))
        spool.accept(shard, {"codes": codes, "labels": own})
    spool.finish()
    return spool, np.concatenate(values)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_image_is_found_wherever_its_bits_lie(
    bits: int, agreed: Callable[..., Mechanism], fill: Fill
) -> None:
    spools, values = fill(agreed(bits, ODD))
    assert min(spool.manifest.shards for spool in spools) > 1
    images = SpooledImages(spools)
    assert len(images) == sum(SITES.values()) and images.nbytes == values.nbytes
    index = torch.randint(0, len(images), (500,), generator=torch.Generator().manual_seed(bits))
    assert torch.equal(images[index], values[index])
    assert torch.equal(images[torch.arange(len(images))], values)
    assert torch.equal(images.labels, torch.cat([spool.read()[1] for spool in spools]))
    assert torch.equal(torch.cat([spool.read()[0] for spool in spools]), values)


def test_small_uploads_are_resident_and_large_ones_are_not(
    agreed: Callable[..., Mechanism], fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    spools, values = fill(agreed(8, ODD))
    resident, labels = pooled_images(spools)
    assert isinstance(resident, torch.Tensor) and torch.equal(resident, values)
    monkeypatch.setattr(pooled, "RESIDENT_BYTES", values.nbytes - 1)
    on_disk, again = pooled_images(spools)
    assert isinstance(on_disk, SpooledImages) and torch.equal(again, labels)
    draws = [Uploads(x, labels).draw(64, torch.Generator().manual_seed(3)) for x in (resident, on_disk)]
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1], draws[1][1])


def test_the_same_weights_wherever_the_uploads_lie(
    run_config: Callable[..., RunConfig],
    agreed: Callable[..., Mechanism],
    fill: Fill,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = run_config(release_noise="seeded", global_steps=4, batch_size=8, warmup_steps=1, device="cpu")
    spools, values = fill(agreed(8, list(config.image_shape)))
    trainer = Trainer(config, spools[0].manifest, np.zeros(config.image_shape), tuple("0123456789"))

    def weights() -> dict[str, np.ndarray]:
        return to_arrays(trainer.global_half(*pooled_images(spools)))

    in_memory = weights()
    monkeypatch.setattr(pooled, "RESIDENT_BYTES", 0)
    from_disk = weights()
    other = to_arrays(trainer.global_half(values + 1, pooled_images(spools)[1]))
    assert all(np.array_equal(in_memory[name], from_disk[name]) for name in in_memory)
    assert any(not np.array_equal(in_memory[name], other[name]) for name in in_memory)


@pytest.mark.parametrize("damage", ["shorter", "missing", "other"])
def test_a_damaged_shard_is_named(damage: str, agreed: Callable[..., Mechanism], fill: Fill) -> None:
    spools, _ = fill(agreed(4, ODD))
    images = SpooledImages(spools)
    path = spools[1].shards()[0].path
    if damage == "shorter":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "missing":
        path.unlink()
    else:
        np.save(path, np.zeros(7))
    everything = [lambda: images[torch.arange(len(images))], spools[1].read, spools[1].digest]
    for read in everything:
        with pytest.raises(DataError, match=r"shard-0000\.npy in .*b is missing or damaged"):
            read()


@pytest.mark.parametrize("damage", [b"", b"not an array", None])
def test_damaged_labels_are_named(damage: bytes | None, agreed: Callable[..., Mechanism], fill: Fill) -> None:
    spools, _ = fill(agreed(8, ODD))
    path = spools[0].shards()[1].labels_path
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(DataError, match=r"labels-0001\.npy in .*a is missing or damaged"):
        pooled_images(spools)
