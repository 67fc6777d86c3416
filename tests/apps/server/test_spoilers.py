"""Clients that fail, lie or stay silent: left out and named, and the run goes on while enough are left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedpdiff.errors import RunError
from fedpdiff.federation.spool import shard_digest
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.mechanism import release_integers
from fedpdiff.privacy.wire import encode

Settings = Callable[..., dict[str, Any]]
Nodes = dict[int, dict[str, Any]]


# -- clients that spoil a run --------------------------------------------------------------------------------


def only(message_type: str, change: Callable[[Message], Message | None]) -> Any:
    """Return a behaviour that changes the replies to one action."""
    return lambda message, reply: change(reply) if message.metadata.message_type == message_type else reply


def fail(reply: Message) -> Message:
    raise OSError("the disk is full")


def decline(reply: Message) -> Message:
    reply.content = RecordDict({"refusal": ConfigRecord({"kind": "X", "message": "<b>no</b>" * 400})})
    return reply


def send_rubbish(reply: Message) -> Message:
    reply.content = RecordDict({"arrays": ArrayRecord({"images": Array(np.zeros(9, np.uint8))})})
    return reply


def change(**fields: Any) -> Callable[[Message], Message]:
    def changed(reply: Message) -> Message:
        reply.content["message"] = ConfigRecord(dict(reply.content["message"]) | fields)
        return reply

    return changed


def send_metrics(**metrics: float) -> Callable[[Message], Message]:
    def changed(reply: Message) -> Message:
        reply.content["metrics"] = MetricRecord({key.replace("__", "/"): v for key, v in metrics.items()})
        return reply

    return changed


def add_too_little_noise(reply: Message) -> Message:
    """Send an upload that is right in every respect but its noise, which is that of t0 = 100.

    Its images are plain, so that few of them are enough: fine structure could pass for noise.
    """
    labels = reply.content["arrays"]["labels"].numpy()
    greys = np.random.default_rng(1).uniform(-1, 1, (len(labels), 1, 1, 1)).astype(np.float32)
    images = np.broadcast_to(greys, (len(labels), 1, 8, 8))
    codes = encode(release_integers(images, np.zeros((1, 8, 8)), 5.0, 0.9, SecureNoise()), 8)
    reply.content["arrays"] = ArrayRecord({"codes": Array(codes), "labels": Array(labels)})
    return change(sha256=shard_digest(codes, labels))(reply)


def declare_more_than_any_disk_holds(reply: Message) -> Message:
    message = reply.content["message"]
    rows, classes = int(message["rows_per_shard"]), len(message["class_counts"])
    return change(class_counts=[2**40 * rows, *[0] * (classes - 1)], shards=2**40)(reply)


SPOILERS = {
    "fails at once": ("upload", only("train.release", fail), "the disk is full"),
    "declines": ("upload", only("train.release", decline), "X: <b>no</b>"),
    "sends rubbish for a release": ("upload", only("train.release", send_rubbish), "ReleaseManifest"),
    "runs other code": ("upload", only("train.release", change(fingerprint="0" * 64)), "other code"),
    "releases otherwise": ("upload", only("train.release", change(t0=3)), "t0 = 3"),
    "takes another's name": ("upload", only("train.release", change(site="client-0", number=0)), "already"),
    "declares too much": (
        "upload",
        only("train.release", declare_more_than_any_disk_holds),
        "its share of the server's disk is",
    ),
    "sends rubbish for a shard": ("upload", only("train.upload", send_rubbish), "ShardManifest"),
    "sends another shard": ("upload", only("train.upload", change(shard=1)), "not 1"),
    "adds too little noise": ("upload", only("train.upload", add_too_little_noise), "less noise"),
    "fails in training": ("training", only("train.personalize", fail), "the disk is full"),
    "sends scores too early": (
        "training",
        only("train.personalize", send_metrics(minority__pfdm__accuracy=1.0)),
        "records",
    ),
    "reports as another": ("training", only("train.personalize", change(site="client-0")), "reports as"),
    "invents a score": ("sampling", only("evaluate.sample", send_metrics(beauty=1.0)), "'beauty'"),
    "invents a number": (
        "sampling",
        only("evaluate.sample", send_metrics(minority__pfdm__accuracy=7.0)),
        "minority/pfdm/accuracy",
    ),
}


@pytest.mark.usefixtures("no_report")
def test_spoilers_are_left_out_and_named(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    """Two honest clients beside many others: the run goes on with the two and names each of the others."""
    count = 2 + len(SPOILERS)
    run_config = settings(clients=count, partitioner="iid", centralised=False, **{"min-clients": 2})
    grid = fake_grid(run_config, simulated_nodes(count))
    for node, (_, behaviour, _) in enumerate(SPOILERS.values(), start=102):
        grid.behaviour[node] = behaviour
    results = grid.run_app()
    assert results.participants == ["client-0", "client-1"]
    assert len(results.clients) == len(results.bytes_up) == 2
    refused = {r.site.replace("node 1", "client-").replace("client-0", "client-"): r for r in results.refused}
    assert len(refused) == len(results.refused) == len(SPOILERS)
    for number, (phase, _, reason) in enumerate(SPOILERS.values(), start=2):
        told = refused[f"client-{number}"]
        assert (told.phase, reason in told.reason) == (phase, True), told
        assert len(told.reason) <= 1000
    # The uploads of those that were left out before training are gone; the oracle has seen none of them.
    spools = {path.name for path in (tmp_path / "run" / "server" / "spool").iterdir()}
    late = [number for number, (phase, _, _) in enumerate(SPOILERS.values(), start=2) if phase != "upload"]
    assert spools == {"client-0", "client-1", *(f"client-{number}" for number in late)}


@pytest.mark.parametrize("name", ["fails at once", "adds too little noise", "fails in training"])
def test_too_few_are_left(
    name: str, fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    phase, behaviour, reason = SPOILERS[name]
    grid = fake_grid(settings(clients=3, **{"min-clients": 3}), simulated_nodes(3))
    grid.behaviour[102] = behaviour
    with pytest.raises(RunError, match=rf"2 clients are left, but min-clients = 3.*{phase}.*{reason}"):
        grid.run_app()
    assert "min-clients = 3" in (tmp_path / "run" / "error.txt").read_text()
    assert not (tmp_path / "run" / "results.json").exists()
    kept = {path.name for path in (tmp_path / "run" / "server" / "spool").iterdir()}
    assert ("client-2" in kept) == (phase == "training")


def test_a_simulated_client_that_wrote_nothing(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, no_report: None, tmp_path: Path
) -> None:
    """A run does not fail at its very end because one client's samples are not where they should be."""

    def remove(reply: Message) -> Message:
        for path in (tmp_path / "run" / "client-1" / "samples").glob("local.npz"):
            path.unlink()
        return reply

    grid = fake_grid(settings(clients=2), simulated_nodes(2))
    grid.behaviour[101] = only("evaluate.sample", remove)
    results = grid.run_app()
    assert results.participants == ["client-0", "client-1"]
    assert results.gap_spread[1] is None


def test_impossible_scores_of_a_real_site_are_refused(
    fake_grid: Any, settings: Settings, site_folder: Any, site_policy: Any, tmp_path: Path
) -> None:
    nodes = {
        node: {
            "data-path": site_folder(name, range(10), 5),
            "state-dir": str(tmp_path / name),
            "policy": site_policy(name),
            "site-name": name,
        }
        for node, name in ((1, "north"), (2, "south"), (3, "west"))
    }
    grid = fake_grid(settings(clients=3), nodes)
    grid.behaviour[2] = only("evaluate.sample", send_metrics(minority__pfdm__accuracy=1.0))
    grid.behaviour[3] = only("evaluate.sample", send_metrics(minority__pfdm__accuracy=1.5))
    strategy = grid.start()
    assert [(r.site, r.phase) for r in strategy.participants.refused] == [("west", "sampling")]


# -- clients that do not answer ------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["train.upload", "evaluate.sample"])
def test_silence_ends_with_the_deadline(
    action: str, fake_grid: Any, settings: Settings, simulated_nodes: Any
) -> None:
    grid = fake_grid(settings(clients=3, **{"reply-seconds": 1}), simulated_nodes(3))
    grid.behaviour[101] = only(action, lambda reply: None)
    strategy = grid.start()
    assert {site.name for site in strategy.participants.sites.values()} == {"client-0", "client-2"}
    assert len(strategy.participants.refused) == 1
    assert "no reply within 1 seconds" in strategy.participants.refused[0].reason


def test_late_replies_are_not_used(fake_grid: Any, settings: Settings, simulated_nodes: Any) -> None:
    grid = fake_grid(settings(clients=3, **{"reply-seconds": 1}), simulated_nodes(3))
    grid.delay[101] = 5.0
    strategy = grid.start()
    assert [site.name for site in strategy.participants.sites.values()] == ["client-0", "client-2"]
    assert [r.site for r in strategy.participants.refused] == ["node 101"]


def test_slow_replies_in_time_are_used(fake_grid: Any, settings: Settings, simulated_nodes: Any) -> None:
    grid = fake_grid(settings(), simulated_nodes(2))
    grid.delay[101] = 0.3
    assert len(grid.start().participants.sites) == 2


def test_nodes_that_cannot_be_reached(fake_grid: Any, settings: Settings, simulated_nodes: Any) -> None:
    grid = fake_grid(settings(clients=3), simulated_nodes(3))
    grid.unreachable = {100}
    strategy = grid.start()
    assert [r.site for r in strategy.participants.refused] == ["node 100"]
    assert "could not be delivered" in strategy.participants.refused[0].reason


def test_nodes_that_never_come(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    nodes: Nodes = {100: simulated_nodes(2)[100]}
    grid = fake_grid(settings(), nodes)
    with pytest.raises(RunError, match="only 1 of at least 2 clients came within wait-seconds = 1"):
        grid.run_app()
    assert grid.sent == []
    assert "wait-seconds" in (tmp_path / "run" / "error.txt").read_text()


def test_enough_nodes_go_on_without_the_rest(
    fake_grid: Any, settings: Settings, simulated_nodes: Any
) -> None:
    nodes = simulated_nodes(3)
    del nodes[101]
    strategy = fake_grid(settings(clients=3), nodes).start()
    assert strategy.seconds["waiting for clients"] > 1
    assert len(strategy.participants.sites) == 2


@pytest.mark.parametrize("action", ["train.release", "train.personalize"])
def test_a_dead_worker_ends_the_run(
    action: str, fake_grid: Any, settings: Settings, simulated_nodes: Any
) -> None:
    grid = fake_grid(settings(clients=3), simulated_nodes(3))
    died = Error(0, "The actor died unexpectedly")
    grid.behaviour[101] = lambda message, reply: (
        Message(died, reply_to=message) if message.metadata.message_type == action else reply
    )
    with pytest.raises(RunError, match=r"worker died \(The actor died.*batch-size"):
        grid.start()
