"""The ServerApp with real ClientApps behind a grid in memory: whole runs, and clients that spoil them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from fedpdiff.config import RunConfig
from fedpdiff.errors import ConfigError, RunError
from fedpdiff.federation.server import ServerTasks
from fedpdiff.federation.spool import shard_digest
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.mechanism import release_integers
from fedpdiff.privacy.wire import encode
from fedpdiff.results import Results
from fedpdiff.runfolder import RunFolder
from fedpdiff.simulation.presets import app_folder, read_presets
from server_app import app as server
from server_app.pfdm import PFDM

Settings = Callable[..., dict[str, Any]]
Nodes = dict[int, dict[str, Any]]


def run(grid: Any) -> Results:
    """Run the ServerApp and return what it wrote."""
    server.app(grid, Context(7, 0, {}, RecordDict(), grid.run_config))
    return Results.read(Path(grid.run_config["run-dir"]))


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "write_report", lambda folder: None)


def start(grid: Any) -> PFDM:
    """Run the strategy alone and return it."""
    config = RunConfig.parse(grid.run_config)
    strategy = PFDM(config, ServerTasks(config, RunFolder.of(config, 7)))
    strategy.start(grid)
    return strategy


# -- whole runs ----------------------------------------------------------------------------------------------


def test_a_whole_run(fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path) -> None:
    grid = fake_grid(settings(clients=3), simulated_nodes(3))
    results = run(grid)
    assert results.participants == ["client-0", "client-1", "client-2"]
    assert results.refused == []
    assert results.privacy["epsilon"] <= 50
    assert results.privacy["schedule"] == "linear"
    assert list(results.seconds) == ["waiting for clients", "upload", "training", "sampling"]
    for client in results.clients:
        assert set(client.groups) == {"majority", "minority"}
        for scores in client.groups.values():
            assert set(scores) == {"local", "pfdm", "oracle", "centralised", "real"}
            assert all(score.accuracy is not None for score in scores.values())
    counts = [sum(content["message"]["class_counts"]) for content in sent(grid, "train.release")]
    assert results.bytes_up == [count * (64 + 8) for count in counts]
    weights = sum(path.stat().st_size for path in (tmp_path / "run/server/global").rglob("*.safetensors"))
    assert all(0.9 * weights < down < 1.1 * weights for down in results.bytes_down)
    _everything_is_in_the_run_folder(tmp_path / "run")


def sent(grid: Any, message_type: str) -> list[RecordDict]:
    return [content for _, kind, content in grid.sent if kind == message_type]


def _everything_is_in_the_run_folder(folder: Path) -> None:
    for name in ("config.json", "environment.json", "results.json", "results.md", "report.html"):
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "config.json").read_text())["clients"] == 3
    assert len(list((folder / "events").glob("*.jsonl"))) == 4
    assert list((folder / "figures").glob("*.png"))
    for number in range(3):
        client = folder / f"client-{number}"
        assert (client / "scores.json").is_file()
        names = {path.stem for path in (client / "samples").iterdir()}
        assert names == {"real", "local", "pfdm", "global", "oracle", "centralised"}
        with np.load(client / "samples" / "pfdm.npz") as samples:
            assert samples["images"].shape == (20, 1, 8, 8)
            assert samples["labels"].tolist() == [label for label in range(10) for _ in range(2)]


@pytest.mark.usefixtures("no_report")
def test_seeded_runs_are_equal(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    def once(name: str, **changes: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        run_dir = tmp_path / name
        seeded = {"release-noise": "seeded", "run-dir": str(run_dir)} | changes
        results = run(fake_grid(settings(**seeded), simulated_nodes(2)))
        samples = {
            str(p.relative_to(run_dir)): p.read_bytes() for p in run_dir.glob("client-*/samples/*.npz")
        }
        return results.model_dump(exclude={"seconds"}), samples

    first, second = once("first"), once("second")
    other = once("other", seed=2, centralised=False)
    secure = once("secure", centralised=False, **{"release-noise": "secure"})
    assert len(first[1]) == 12
    assert first == second
    for changed in (other, secure):
        name = "client-0/samples/pfdm.npz"
        assert first[1][name] != changed[1][name]
    assert first[1]["client-0/samples/local.npz"] == secure[1]["client-0/samples/local.npz"]
    assert "NOT PRIVATE" in (tmp_path / "first" / "results.md").read_text()
    assert "NOT PRIVATE" not in (tmp_path / "secure" / "results.md").read_text()


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("name", "t0", "epsilon", "theorem"),
    [("paper", 690, 8.774, 10.243), ("paper-v1", 100, 1315.375, None)],
)
def test_the_papers_presets_give_the_epsilon_that_they_have(
    name: str,
    t0: int,
    epsilon: float,
    theorem: float | None,
    fake_grid: Any,
    settings: Settings,
    simulated_nodes: Any,
    tmp_path: Path,
) -> None:
    preset = dict(read_presets(app_folder())[name].settings)
    results = run(fake_grid(settings(**preset, centralised=False), simulated_nodes(2)))
    assert results.privacy["t0"] == t0
    assert results.privacy["epsilon"] == pytest.approx(epsilon, abs=1e-9)
    if theorem:
        assert results.privacy["epsilon_theorem_5_1"] == pytest.approx(theorem, abs=1e-9)
    assert f"epsilon = {epsilon:,.3f}" in (tmp_path / "run" / "results.md").read_text()
    separate = (tmp_path / "run" / "client-0" / "state" / "local").exists()
    assert separate == (name == "paper-v1")
    assert ("separate network" in results.notes[0]) == separate


@pytest.mark.usefixtures("no_report")
def test_real_sites_with_other_classes(
    fake_grid: Any, settings: Settings, site_folder: Any, tmp_path: Path
) -> None:
    """Three sites, each with its own digits: no score, no loss and no sample reaches the server."""
    nodes = {
        node: {
            "data-path": site_folder(name, digits, 8),
            "state-dir": str(tmp_path / f"state-{name}"),
            "site-name": name,
        }
        for node, (name, digits) in enumerate(
            {"north": range(0, 5), "south": range(3, 9), "west": [9]}.items(), start=11
        )
    }
    grid = fake_grid(settings(clients=3), nodes)
    results = run(grid)
    assert results.participants == ["north", "south", "west"]
    assert [client.client for client in results.clients] == [0, 1, 2]
    assert [client.groups for client in results.clients] == [{}, {}, {}]
    assert results.gap_closed == [None] * 3
    assert results.clients[2].classes == {"majority": [9], "minority": []}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.json",
        "environment.json",
        "events",
        "results.json",
        "results.md",
        "server",
    ]
    assert [path.name for path in (tmp_path / "run" / "events").iterdir()] == ["server.jsonl"]
    assert not any(content.metric_records for _, _, content in grid.sent)
    assert (tmp_path / "state-north" / "scores.json").is_file()


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
    """Send an upload that is right in every respect but its noise, which is that of t0 = 100."""
    labels = reply.content["arrays"]["labels"].numpy()
    images = np.random.default_rng(1).uniform(-1, 1, (len(labels), 1, 8, 8)).astype(np.float32)
    codes = encode(release_integers(images, np.zeros((1, 8, 8)), 5.0, 0.9, SecureNoise()), 8)
    reply.content["arrays"] = ArrayRecord({"codes": Array(codes), "labels": Array(labels)})
    return change(sha256=shard_digest(codes, labels))(reply)


SPOILERS = {
    "fails at once": ("upload", only("train.release", fail), "the disk is full"),
    "declines": ("upload", only("train.release", decline), "X: <b>no</b>"),
    "sends rubbish for a release": ("upload", only("train.release", send_rubbish), "ReleaseManifest"),
    "runs other code": ("upload", only("train.release", change(fingerprint="0" * 64)), "other code"),
    "releases otherwise": ("upload", only("train.release", change(t0=3)), "t0 = 3"),
    "takes another's name": ("upload", only("train.release", change(site="client-0", number=0)), "already"),
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
    results = run(grid)
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
        run(grid)
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
    results = run(grid)
    assert results.participants == ["client-0", "client-1"]
    assert results.gap_spread[1] is None


def test_scores_of_real_sites_are_refused(
    fake_grid: Any, settings: Settings, site_folder: Any, tmp_path: Path
) -> None:
    nodes = {
        node: {
            "data-path": site_folder(name, range(10), 5),
            "state-dir": str(tmp_path / name),
            "site-name": name,
        }
        for node, name in ((1, "north"), (2, "south"), (3, "west"))
    }
    grid = fake_grid(settings(clients=3), nodes)
    grid.behaviour[3] = only("evaluate.sample", send_metrics(minority__pfdm__accuracy=1.0))
    strategy = start(grid)
    assert [(r.site, r.phase) for r in strategy.participants.refused] == [("west", "sampling")]


# -- clients that do not answer ------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["train.upload", "evaluate.sample"])
def test_silence_ends_with_the_deadline(
    action: str, fake_grid: Any, settings: Settings, simulated_nodes: Any
) -> None:
    grid = fake_grid(settings(clients=3, **{"reply-seconds": 1}), simulated_nodes(3))
    grid.behaviour[101] = only(action, lambda reply: None)
    strategy = start(grid)
    assert {site.name for site in strategy.participants.sites.values()} == {"client-0", "client-2"}
    assert len(strategy.participants.refused) == 1
    assert "no reply within 1 seconds" in strategy.participants.refused[0].reason


def test_late_replies_are_not_used(fake_grid: Any, settings: Settings, simulated_nodes: Any) -> None:
    grid = fake_grid(settings(clients=3, **{"reply-seconds": 1}), simulated_nodes(3))
    grid.delay[101] = 1.5
    strategy = start(grid)
    assert [site.name for site in strategy.participants.sites.values()] == ["client-0", "client-2"]
    assert [r.site for r in strategy.participants.refused] == ["node 101"]


def test_slow_replies_in_time_are_used(fake_grid: Any, settings: Settings, simulated_nodes: Any) -> None:
    grid = fake_grid(settings(), simulated_nodes(2))
    grid.delay[101] = 0.3
    assert len(start(grid).participants.sites) == 2


def test_nodes_that_cannot_be_reached(fake_grid: Any, settings: Settings, simulated_nodes: Any) -> None:
    grid = fake_grid(settings(clients=3), simulated_nodes(3))
    grid.unreachable = {100}
    strategy = start(grid)
    assert [r.site for r in strategy.participants.refused] == ["node 100"]
    assert "could not be delivered" in strategy.participants.refused[0].reason


def test_nodes_that_never_come(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    nodes: Nodes = {100: simulated_nodes(2)[100]}
    grid = fake_grid(settings(), nodes)
    with pytest.raises(RunError, match="only 1 of at least 2 clients came within wait-seconds = 1"):
        run(grid)
    assert grid.sent == []
    assert "wait-seconds" in (tmp_path / "run" / "error.txt").read_text()


def test_enough_nodes_go_on_without_the_rest(
    fake_grid: Any, settings: Settings, simulated_nodes: Any
) -> None:
    nodes = simulated_nodes(3)
    del nodes[101]
    strategy = start(fake_grid(settings(clients=3), nodes))
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
        start(grid)


# -- settings and earlier attempts ---------------------------------------------------------------------------


def test_wrong_settings_fail_before_anything(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    grid = fake_grid(settings() | {"clients": 0, "colour": "red"}, simulated_nodes(2))
    with pytest.raises(ConfigError, match=r"(?s)colour.*clients|clients.*colour"):
        run(grid)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_report")
def test_an_attempt_that_failed_can_be_tried_again(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    """The second attempt sends the very same release, and knows nothing of a site that is gone."""
    grid = fake_grid(settings(), simulated_nodes(2))
    grid.behaviour[101] = only("train.personalize", fail)
    with pytest.raises(RunError):
        run(grid)
    gone = tmp_path / "run" / "server" / "spool" / "client-9"
    gone.mkdir()
    (gone / "manifest.json").write_text("{}")
    again = fake_grid(settings(), simulated_nodes(2))
    assert run(again).participants == ["client-0", "client-1"]
    for first, second in zip(sent(grid, "train.upload"), sent(again, "train.upload"), strict=True):
        assert first["arrays"]["codes"].data == second["arrays"]["codes"].data


def test_hooks_of_flowers_strategy_have_nothing_to_aggregate(settings: Settings) -> None:
    config = RunConfig.parse(settings())
    strategy = PFDM(config, ServerTasks(config, RunFolder.of(config, 7)))
    assert strategy.aggregate_train(1, []) == (None, None)
    assert strategy.aggregate_evaluate(1, []) is None
