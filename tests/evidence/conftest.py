"""A finished run of the digits, made by the same code as a real one, with networks that hardly learnt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fedpdiff.attacks import membership_suite
from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.diffusion.denoiser import to_arrays
from fedpdiff.evidence import controls, epsilon, rebuild, scene, uploads
from fedpdiff.federation.client import ClientTasks
from fedpdiff.federation.protocol import ReleaseInstruction
from fedpdiff.federation.server import ServerTasks
from fedpdiff.federation.spool import Spool
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.metrics import feature_training
from fedpdiff.results import ClientResults, Results
from fedpdiff.runfolder import RunFolder

SETTINGS: dict[str, Any] = {
    "epsilon": 0.0,
    "t0": 400,
    "personal-steps": 20,
    "global-steps": 20,
    "batch-size": 32,
    "warmup-steps": 0,
    "global-sampling-steps": 3,
    "personal-sampling-steps": 3,
    "samples-per-class": 4,
    "oracle": False,
    "centralised": False,
    "device": "cpu",
}


def federate(folder: Path, **changes: Any) -> RunConfig:
    """Run everything that a simulation does, without Flower, and return its settings."""
    config = RunConfig.parse(SETTINGS | {"run-dir": str(folder)} | changes)
    run = RunFolder(folder)
    run.prepare(config)
    server = ServerTasks(config, run)
    agreed = server.agreement
    instruction = ReleaseInstruction(
        **agreed.mechanism.model_dump(),
        fingerprint=code_fingerprint(),
        class_names=list(server.class_names),
    )
    nodes = [{"partition-id": k, "num-partitions": config.clients} for k in range(config.clients)]
    clients = [ClientTasks(config, NodeConfig.parse(node), 7) for node in nodes]
    spools = []
    for client in clients:
        manifest = client.release(instruction, {"centre": agreed.centre})
        spool = Spool(run.spool(client.site), manifest)
        spool.create()
        for number in range(manifest.shards):
            spool.accept(*client.shard(number))
        spool.finish()
        spools.append(spool)
        client.personalize()
    half = server.train_global(spools)
    arrays = {f"global/{name}": array for name, array in to_arrays(half).items()}
    for client in clients:
        client.sample(arrays)
    write_results(run, config, server)
    return config


def write_results(run: RunFolder, config: RunConfig, server: ServerTasks) -> None:
    mechanism = server.agreement.mechanism
    Results(
        seed=config.seed,
        release_noise=mechanism.noise,
        privacy={"epsilon": 30.0, "delta": config.delta, "mu": 4.6, "t0": mechanism.t0},
        feature_space="none",
        class_names=list(server.class_names),
        clients=[ClientResults(client=k, name=f"client-{k}") for k in range(config.clients)],
        gap_closed=[None] * config.clients,
        gap_closed_mean=None,
        gap_spread=[None] * config.clients,
        bytes_up=[],
        bytes_down=[],
        seconds={},
    ).write(run.root)


@pytest.fixture(scope="session")
def original_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence") / "run"
    federate(folder)
    return folder


@pytest.fixture
def finished_run(original_run: Path, tmp_path: Path) -> Path:
    """Return the folder of a finished run; a copy of its own for each test."""
    return Path(shutil.copytree(original_run, tmp_path / "run"))


@pytest.fixture
def run_anew(tmp_path: Path) -> Callable[..., Path]:
    """Return ``run_anew(chain="nested")``: a finished run with other settings."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "anew"
        federate(folder, **{key.replace("_", "-"): value for key, value in changes.items()})
        return folder

    return make


@pytest.fixture
def little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train and sample for a moment only: what is tested is which attacks run on what, not how well."""
    for module, name, value in (
        (controls, "_STEPS", 3),
        (controls, "_ROUNDS", 1),
        (epsilon, "_PER_SIDE", 200),
        (rebuild, "_IMAGES", 8),
        (rebuild, "_OWN_IMAGES", 8),
        (rebuild, "_DDIM_STEPS", 2),
        (rebuild, "_SAMPLES", 1),
        (rebuild, "_SAMPLE_STEPS", 2),
        (rebuild, "_MAP_STEPS", 2),
        (membership_suite, "_OFFSETS", (0.05, 0.1)),
        (membership_suite, "_LOSS_OFFSETS", (0.1,)),
        (membership_suite, "_SECMI_STRIDES", (2,)),
        (feature_training, "STEPS", 3),
        (scene, "_GRID", (0.1, 0.6)),
        (uploads, "_READER_STEPS", 5),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def working_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the controls pass, whatever three steps taught them and however few uploads are matched."""
    monkeypatch.setattr(controls, "NEEDED_AUC", -np.inf)
    monkeypatch.setattr(uploads, "_FAR_ABOVE", 0)


@pytest.fixture
def own_test_split(tmp_path: Path) -> Callable[..., str]:
    """Return ``own_test_split(train=900, test=200)``: digits in files with a test split of its own."""

    def make(train: int, test: int) -> str:
        (tmp_path / "digits").mkdir()
        digits = load_digits()
        features = datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=[str(k) for k in range(10)])
        )
        for split, first, count in (("train", 0, train), ("test", train, test)):
            rows = slice(first, first + count)
            pixels = (digits.images[rows] * 255 / 16).astype(np.uint8)
            columns = {"image": [Image.fromarray(p) for p in pixels], "label": digits.target[rows].tolist()}
            data = datasets.Dataset.from_dict(columns, features=features)
            data.to_parquet(tmp_path / "digits" / f"{split}-00000-of-00001.parquet")
        return str(tmp_path / "digits")

    return make
