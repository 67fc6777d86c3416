"""The server's memory does not grow with the uploads: twice the data, the same peak.

``python test_upload_memory.py FOLDER RESIDENT_BYTES`` takes in an upload, checks it, trains on it, and prints
the peak of its resident memory (mapped pages of files included) for one size and for twice that size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedpdiff.config import RunConfig
from fedpdiff.federation import pooled, spool
from fedpdiff.federation.agreement import Agreement, propose
from fedpdiff.federation.protocol import ReleaseManifest, ShardManifest
from fedpdiff.privacy.mechanism import noise_sigma
from fedpdiff.privacy.wire import encode

ROOT = Path(__file__).parents[2]
IMAGES = 16_000  # 3 x 32 x 32 at 8 bits: 49 MB of codes, 197 MB when decoded
GROWTH_MB = 16  # peaks vary by 2 MB; twice the data in memory would add 197 MB
# Freed blocks go back to the system at once. As glibc is set, it keeps up to 32 MB of them, more or fewer by
# chance, and peaks of the same work differ by 60 MB.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
MB = 10**6


def receive(folder: Path, agreement: Agreement, images: int) -> spool.Spool:
    """Take in an upload of noise shard by shard, as from a site."""
    mechanism = agreement.mechanism
    rows = spool.rows_per_shard(mechanism)
    labels = np.arange(images) % 10
    manifest = ReleaseManifest(
        **mechanism.model_dump(),
        fingerprint="0" * 64,
        site=folder.name,
        class_counts=np.bincount(labels, minlength=10).tolist(),
        rows_per_shard=rows,
        shards=-(-images // rows),
        certificate="",
    )
    upload, generator = spool.Spool(folder, manifest), np.random.default_rng(images)
    upload.create()
    for number, first in enumerate(range(0, images, rows)):
        own = labels[first : first + rows]
        noise = generator.standard_normal((len(own), *mechanism.image_shape), dtype=np.float32)
        codes = encode(np.rint(noise * noise_sigma(mechanism.alpha_bar)).astype(np.int16), 8)
        digest = spool.shard_digest(codes, own)
        shard = ShardManifest(site=folder.name, shard=number, rows=len(own), sha256=digest)
        upload.accept(shard, {"codes": codes, "labels": own})
    upload.finish()
    return upload


def peak_mb(folder: Path, images: int) -> float:
    """Return the peak of this process's resident memory while it takes in an upload and trains on it."""
    import torch

    from fedpdiff.federation.networks import Trainer
    from fedpdiff.types import LabelledImages

    settings = {"image-size": 32, "channels": 3, "release-noise": "seeded", "epsilon": 8.0, "device": "cpu"}
    steps = {"global-steps": 3, "batch-size": 4, "warmup-steps": 0, "centre": "none", "clip-rule": "fixed"}
    config = RunConfig.parse(settings | steps)
    none = LabelledImages(torch.zeros(0, *config.image_shape, dtype=torch.uint8), torch.zeros(0).long())
    agreement = propose(config, none)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's record of the peak begins anew
    upload = receive(folder, agreement, images)
    trainer = Trainer(config, agreement.mechanism, agreement.centre, tuple("0123456789"))
    trainer.global_half(*pooled.pooled_images([upload]))
    upload.discard()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / MB


def main(folder: Path, resident_bytes: int) -> None:
    """Print the peaks as JSON; what is imported and allocated only once is so before."""
    spool.SHARD_BYTES = 4 * 2**20
    pooled.RESIDENT_BYTES = resident_bytes
    peak_mb(folder / "first", IMAGES // 4)
    print(json.dumps([peak_mb(folder / "once", IMAGES), peak_mb(folder / "twice", 2 * IMAGES)]))


def growth(folder: Path, resident_bytes: int) -> float:
    done = subprocess.run(
        [sys.executable, __file__, folder, str(resident_bytes)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | ALLOCATOR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    once, twice = json.loads(done.stdout)
    return float(twice - once)


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's record of peaks")
def test_twice_the_data_take_no_more_memory(tmp_path: Path) -> None:
    assert growth(tmp_path / "disk", pooled.RESIDENT_BYTES) < GROWTH_MB
    # The measurement would notice: uploads that are kept in memory do grow.
    assert growth(tmp_path / "memory", 2**40) > 8 * GROWTH_MB


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
