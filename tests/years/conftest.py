"""A finished run as far as publishing and retention look at it, made by the release code and the spool."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.denoiser_config import DenoiserConfig
from fedpdiff.diffusion.networks import build_network
from fedpdiff.federation.certificates import certificate_text
from fedpdiff.federation.protocol import ReleaseManifest, ShardManifest
from fedpdiff.federation.spool import Spool, shard_digest
from fedpdiff.privacy.gaussian_noise import SecureNoise, SeededNoise
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import Release, ReleaseRequest, ReleaseStore
from fedpdiff.privacy.statement import privacy_statement
from fedpdiff.privacy.wire import encode
from fedpdiff.results import CertificateSummary, ClientResults, Results
from fedpdiff.runfolder import RunFolder
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

T0, CLIP, SHAPE = 690, 4.0, (1, 8, 8)
ALPHA_BAR = float(NoiseSchedule("linear", 1000).alpha_bar[T0])
CLASSES = ["cat", "dog", "emu"]


def release(folder: Path, seed: int, noise: str) -> Release:
    pixels = torch.randint(
        0, 256, (12, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    private = PrivateImages(
        LabelledImages(pixels, torch.arange(12) % 3),
        [hashlib.sha256(bytes([seed, row])).digest() for row in range(12)],
    )
    centre = np.zeros(SHAPE, np.float32)
    request: Any = ReleaseRequest(T0, ALPHA_BAR, CLIP, centre, "linear", 1000, 1e-5, noise)  # type: ignore[arg-type]
    source = SecureNoise() if noise == "secure" else SeededNoise(1)
    return ReleaseStore(folder, Policy.simulation(100.0, 1e-5)).get_or_make(request, private, source)


def upload(folder: Path, made: Release) -> Spool:
    keys = ("t0", "alpha_bar", "schedule", "diffusion_steps", "clip", "delta", "noise", "image_shape")
    manifest = ReleaseManifest(
        **{key: made.manifest[key] for key in keys},
        wire_bits=8,
        fingerprint="0" * 64,
        site=folder.name,
        class_counts=[4, 4, 4],
        rows_per_shard=12,
        shards=1,
        certificate=certificate_text(made.certificate),
    )
    spool = Spool(folder, manifest)
    spool.create()
    codes, labels = encode(np.asarray(made.integers), 8), np.asarray(made.labels)
    shard = ShardManifest(site=folder.name, shard=0, rows=12, sha256=shard_digest(codes, labels))
    spool.accept(shard, {"codes": codes, "labels": labels})
    spool.finish()
    return spool


def make_run(root: Path, sites: tuple[str, ...] = ("north", "south"), noise: str = "secure") -> None:
    """Write what a run of real sites leaves behind; its networks have learnt nothing."""
    run = RunFolder(root)
    config = RunConfig.parse(
        {"run-dir": str(root), "classes": ",".join(CLASSES), "coordinator": "uni-clinic"}
    )
    run.prepare(config)
    summaries = []
    for number, site in enumerate(sites):
        made = release(root.parent / f"{site}-store", number, noise)
        upload(run.spool(site), made)
        stated = made.certificate
        summaries.append(
            CertificateSummary(
                site=site,
                images=12,
                epsilon=stated["epsilon"] if stated else None,
                delta=1e-5 if stated else None,
                verified=bool(stated),
            )
        )
    denoiser_config = DenoiserConfig(
        kind="continued",
        objective="ambient",
        schedule="linear",
        diffusion_steps=1000,
        t0=T0,
        hand_off=T0 + 60,
        last=1000,
        class_names=CLASSES,
        image_shape=list(SHAPE),
        clip=CLIP,
        release_noise=noise,  # type: ignore[arg-type]
    )
    network = build_network("tiny", SHAPE, denoiser_config.conditions, seed=0)
    Denoiser(network, denoiser_config, torch.zeros(SHAPE)).save_pretrained(run.global_half)
    Results(
        seed=1,
        release_noise=noise,  # type: ignore[arg-type]
        privacy=privacy_statement(ALPHA_BAR, CLIP, 1e-5, T0, "linear"),
        feature_space="none",
        class_names=CLASSES,
        clients=[ClientResults(client=k, name=site) for k, site in enumerate(sites)],
        gap_closed=[None] * len(sites),
        gap_closed_mean=None,
        gap_spread=[None] * len(sites),
        bytes_up=[1000] * len(sites),
        bytes_down=[1000] * len(sites),
        seconds={"upload": 1.0},
        participants=list(sites),
        certificates=summaries,
    ).write(root)


@pytest.fixture(scope="session")
def original_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("years") / "run-1"
    make_run(root)
    return root


@pytest.fixture
def run(original_run: Path, tmp_path: Path) -> Path:
    """Return the folder of a finished run of the sites north and south, a copy that a test may spoil."""
    return Path(shutil.copytree(original_run, tmp_path / "runs" / "run-1"))


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Return ``new_run(noise="seeded")``: another run."""

    def make(**changes: Any) -> Path:
        root = tmp_path / "another" / "run"
        make_run(root, **changes)
        return root

    return make


@pytest.fixture
def edit() -> Callable[..., None]:
    """Return ``edit(path, key=value)``: change a JSON file."""

    def change(path: Path, **values: Any) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change
