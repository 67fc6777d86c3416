"""A run that ended too early goes on in the same folder: nothing is sent, trained or drawn twice."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedpdiff import runfolder
from fedpdiff.errors import ConfigError, RunError
from fedpdiff.federation import networks, shard_files, spool
from server_app import federation, pfdm

Settings = Callable[..., dict[str, Any]]


class Died(BaseException):
    """A process that ends here: nothing catches it."""


@pytest.fixture
def again(
    fake_grid: Any, settings: Settings, site_folder: Any, site_policy: Any, tmp_path: Path, monkeypatch: Any
) -> Callable[..., Any]:
    """Return ``again()``: a new attempt of the same two real sites in the same run folder."""
    monkeypatch.setattr(federation, "HttpGrid", fake_grid)
    monkeypatch.setattr(spool, "SHARD_BYTES", 64 * 10)  # 10 images a shard: 3 shards a site
    nodes = {
        node: {
            "data-path": site_folder(name, range(10), 4),
            "state-dir": str(tmp_path / f"state-{name}"),
            "policy": site_policy(name),
            "site-name": name,
        }
        for node, name in ((11, "north"), (12, "south"))
    }

    def make(**changes: Any) -> Any:
        grid = fake_grid(settings(clients=2, **({"min-clients": 1} | changes)), dict(nodes))
        grid.names = {11: "north", 12: "south"}
        return grid

    return make


def die_at(action: str, count: int) -> Callable[[Message, Message], Message]:
    """Return a behaviour with which the ServerApp dies when the reply to one action comes, the n-th time."""
    left = count

    def behave(message: Message, reply: Message) -> Message:
        nonlocal left
        left -= message.metadata.message_type == action
        if left == 0:
            raise Died
        return reply

    return behave


def shards_on_disk(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.glob("server/spool/*/shard-*.npy")}


@pytest.mark.usefixtures("no_report")
def test_only_missing_shards_are_asked_for(again: Any, tmp_path: Path) -> None:
    grid = again()
    grid.behaviour[12] = die_at("train.upload", 3)
    with pytest.raises(Died):
        grid.run_app()
    before = shards_on_disk(tmp_path / "run")
    assert len(before) >= 2
    second = again()
    results = second.run_app()
    assert results.participants == ["north", "south"]
    assert len(second.replies("train.upload")) == 6 - len(before)
    after = shards_on_disk(tmp_path / "run")
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    assert [release["certificate"] for release in grid.releases()] == [
        release["certificate"] for release in second.releases()
    ]


@pytest.mark.usefixtures("no_report")
def test_a_damaged_shard_is_asked_for_again(again: Any, tmp_path: Path) -> None:
    grid = again()
    grid.behaviour[12] = die_at("train.personalize", 1)
    with pytest.raises(Died):
        grid.run_app()
    (damaged,) = (tmp_path / "run").glob("server/spool/north/shard-0001.npy")
    good = damaged.read_bytes()
    damaged.write_bytes(good[: len(good) // 2])
    second = again()
    assert second.run_app().participants == ["north", "south"]
    assert damaged.read_bytes() == good
    assert len(second.replies("train.upload")) == 3


@pytest.mark.usefixtures("no_report")
def test_another_release_replaces_the_one_that_lies_there(
    again: Any, tmp_path: Path, site_folder: Any
) -> None:
    """Two mechanisms or two sets of images are never mixed in one upload."""
    grid = again()
    grid.behaviour[12] = die_at("train.upload", 3)
    with pytest.raises(Died):
        grid.run_app()
    second = again()
    second.nodes[11] = dict(second.nodes[11]) | {"data-path": site_folder("north-2", range(10), 6)}
    results = second.run_app()
    assert results.participants == ["north", "south"]
    north = next(release for release in second.releases() if release["site"] == "north")
    uploads = [c for c in second.replies("train.upload") if c["message"]["site"] == "north"]
    assert len(uploads) == north["shards"] > 3
    spooled = sorted((tmp_path / "run" / "server" / "spool" / "north").glob("shard-*.npy"))
    assert sum(len(np.load(path.with_name(path.name.replace("shard", "labels")))) for path in spooled) == sum(
        north["class_counts"]
    )


@pytest.mark.usefixtures("no_report")
def test_an_upload_is_not_lost_with_its_site(again: Any, tmp_path: Path) -> None:
    """A site that uploaded everything and is away now has done its part; one that declines is not used."""
    grid = again(**{"wait-seconds": 1})
    grid.behaviour[12] = die_at("train.personalize", 1)
    with pytest.raises(Died):
        grid.run_app()
    second = again(**{"wait-seconds": 1})
    del second.nodes[12]
    results = second.run_app()
    assert results.participants == ["north"]
    assert [certificate.site for certificate in results.certificates] == ["north", "south"]
    assert all(certificate.verified for certificate in results.certificates)
    assert sorted(json.loads((tmp_path / "run/server/pool.json").read_text())) == ["north", "south"]


@pytest.mark.usefixtures("no_report")
def test_the_upload_of_a_site_that_declines_now_is_deleted(again: Any, tmp_path: Path) -> None:
    grid = again()
    grid.behaviour[12] = die_at("train.personalize", 1)
    with pytest.raises(Died):
        grid.run_app()
    second = again()
    policy = Path(str(second.nodes[12]["policy"]))
    policy.write_text(policy.read_text().replace("epsilon = 100.0", "epsilon = 1.0"))
    results = second.run_app()
    assert results.participants == ["north"]
    assert [refusal.site for refusal in results.refused] == ["south"]
    assert [certificate.site for certificate in results.certificates] == ["north"]
    assert not (tmp_path / "run" / "server" / "spool" / "south").exists()


def test_nobody_takes_part_in_another_sites_name(again: Any, tmp_path: Path) -> None:
    """Else an admitted site could replace the upload of one that is away."""
    grid = again()
    grid.behaviour[12] = die_at("train.personalize", 1)
    with pytest.raises(Died):
        grid.run_app()
    before = shards_on_disk(tmp_path / "run")
    second = again()
    del second.nodes[11]
    second.nodes[12] = dict(second.nodes[12]) | {"site-name": "north"}
    with pytest.raises(RunError, match=r"south \(upload\): it calls itself 'north', but was admitted as"):
        second.run_app()
    north = {name: content for name, content in before.items() if "/north/" in name}
    assert len(north) == 3
    assert {name: shards_on_disk(tmp_path / "run").get(name) for name in north} == north


@pytest.mark.usefixtures("no_report")
def test_trainings_go_on_from_their_checkpoints(again: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Checkpoints are kept without being asked for, on both sides; what is finished is not done again."""
    steps: list[str] = []
    real = networks.train_denoiser

    def counted(network: Any, chain: Any, batches: Any, *rest: Any, **named: Any) -> Any:
        def drawn(count: int, generator: Any) -> Any:
            steps.append(type(batches).__name__)
            return draw(count, generator)

        draw, batches.draw = batches.draw, drawn
        return real(network, chain, batches, *rest, **named)

    monkeypatch.setattr(networks, "train_denoiser", counted)
    grid = again()
    grid.behaviour[12] = die_at("evaluate.sample", 1)
    with pytest.raises(Died):
        grid.run_app()
    assert len(steps) > 3 * 2  # two sites and the server, two steps each, and what identifies a training
    weights = (tmp_path / "run/server/global/network/diffusion_pytorch_model.safetensors").read_bytes()
    steps.clear()
    assert again().run_app().participants == ["north", "south"]
    assert len(steps) == 3  # what identifies each of the three; no step was taken
    assert (
        weights == (tmp_path / "run/server/global/network/diffusion_pytorch_model.safetensors").read_bytes()
    )


@pytest.mark.usefixtures("no_report")
def test_samples_are_drawn_once(again: Any, tmp_path: Path) -> None:
    grid = again()
    grid.behaviour[12] = die_at("evaluate.sample", 1)
    with pytest.raises(Died):
        grid.run_app()
    drawn = {path: path.stat().st_mtime_ns for path in tmp_path.glob("state-*/samples/*.npz")}
    assert len({path.parent for path in drawn}) == 2
    again().run_app()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("state-*/samples/*.npz")} == drawn


@pytest.mark.usefixtures("no_report")
def test_another_pool_is_another_training(again: Any, tmp_path: Path) -> None:
    """A checkpoint of two sites' uploads must not become a model of three, or of one."""
    grid = again()
    grid.behaviour[12] = die_at("evaluate.sample", 1)
    with pytest.raises(Died):
        grid.run_app()
    both = (tmp_path / "run/server/global-checkpoint.safetensors").read_bytes()
    second = again()
    policy = Path(str(second.nodes[12]["policy"]))
    policy.write_text(policy.read_text().replace("epsilon = 100.0", "epsilon = 1.0"))
    second.run_app()
    assert sorted(json.loads((tmp_path / "run/server/pool.json").read_text())) == ["north"]
    assert (tmp_path / "run/server/global-checkpoint.safetensors").read_bytes() != both


# -- folders in which a run cannot go on -----------------------------------------------------------------


def test_a_run_of_other_settings_is_refused(again: Any, tmp_path: Path) -> None:
    grid = again()
    grid.behaviour[12] = die_at("train.personalize", 1)
    with pytest.raises(Died):
        grid.run_app()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"other settings \(epsilon = 60\.0 there, 5\.0 now\)"):
        again(epsilon=5.0).run_app()
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("no_report")
def test_how_long_to_wait_may_change(again: Any) -> None:
    grid = again()
    grid.behaviour[12] = die_at("train.personalize", 1)
    with pytest.raises(Died):
        grid.run_app()
    second = again(**{"reply-seconds": 7, "wait-seconds": 3, "min-clients": 2})
    assert second.run_app().participants == ["north", "south"]


@pytest.mark.usefixtures("no_report")
def test_a_finished_run_is_not_run_again(again: Any) -> None:
    again().run_app()
    third = again()
    with pytest.raises(ConfigError, match="already holds a finished run"):
        third.run_app()
    assert third.sent == []


def test_two_runs_never_share_a_folder(again: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(runfolder, "_LOCK_SECONDS", 0.0)
    (tmp_path / "run" / "server").mkdir(parents=True)
    with (tmp_path / "run" / "server" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        grid = again()
        with pytest.raises(RunError, match="another run is at work"):
            grid.run_app()
    assert grid.sent == []
    assert not (tmp_path / "run" / "config.json").exists()


# -- full disks -------------------------------------------------------------------------------------------


def full(*args: Any, **keywords: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("no_report")
def test_a_full_disk_of_the_coordinator(again: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """One clear error, no client is blamed, and the next attempt goes on."""
    grid = again()
    with monkeypatch.context() as patched:
        patched.setattr(shard_files.ShardFile, "write", full)
        with pytest.raises(RunError, match=r"coordinator's disk is full.*make room, and flwr run"):
            grid.run_app()
    assert "disk is full" in (tmp_path / "run" / "error.txt").read_text()
    assert again().run_app().refused == []


@pytest.mark.usefixtures("no_report")
def test_a_full_disk_of_a_site(again: Any, monkeypatch: Any) -> None:
    """It is told to its coordinator without a path, the others go on, and nothing is noised again."""
    real = networks.train_denoiser

    def train(network: Any, chain: Any, batches: Any, *rest: Any, **named: Any) -> Any:
        if type(batches).__name__ != "Uploads" and not failed:
            failed.append(1)
            full()
        return real(network, chain, batches, *rest, **named)

    failed: list[int] = []
    monkeypatch.setattr(networks, "train_denoiser", train)
    results = again().run_app()
    (refusal,) = results.refused
    assert refusal.reason == "UnexpectedError: its disk is full; this site's log says more"


@pytest.mark.usefixtures("no_report")
def test_a_run_that_fails_does_not_wait_for_global_training(again: Any, monkeypatch: Any) -> None:
    """Too few sites are left while the server trains in its thread: the error comes at once."""
    monkeypatch.setattr(pfdm, "ThreadPoolExecutor", ThreadPoolExecutor)
    waiting, reached = threading.Event(), threading.Event()

    def train(self: Any, uploads: Any, labels: Any, progress: Any, checkpoint: Any) -> None:
        reached.set()
        for step in range(1, 100_000):
            progress(step, 100_000, None)
            waiting.wait(0.01)

    monkeypatch.setattr(networks.Trainer, "global_half", train)

    def fail(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train.personalize":
            raise OSError("broken")
        return reply

    grid = again(**{"min-clients": 2})
    grid.behaviour[12] = fail
    with pytest.raises(RunError, match="1 clients are left"):
        grid.run_app()
    assert reached.is_set()
