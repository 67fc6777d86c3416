from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image
from sklearn.datasets import load_digits

from client_app.app import app as client_app
from fedpdiff.config import RunConfig
from fedpdiff.data import client
from fedpdiff.federation import server
from fedpdiff.metrics import feature_training
from fedpdiff.results import Results
from fedpdiff.runfolder import RunFolder
from server_app import app as server_app
from server_app import pfdm
from server_app.pfdm import PFDM

RUN = 7
SMALL = {
    "personal-steps": 2,
    "global-steps": 2,
    "batch-size": 8,
    "warmup-steps": 0,
    "global-sampling-steps": 2,
    "personal-sampling-steps": 2,
    "samples-per-class": 2,
    "max-images": 400,
    "wait-seconds": 1,
    "device": "cpu",
}

Behaviour = Callable[[Message, Message], Message | None]


def remembered(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``load`` that reads the same images once for all tests."""
    known: dict[str, Any] = {}

    def remember(config: RunConfig, *node: Any) -> Any:
        key = repr((config.model_copy(update={"run_dir": ""}), node))
        if key not in known:
            known[key] = load(config, *node)
        return known[key]

    return remember


LOADERS = {
    (client, "load_client"): remembered(client.load_client),
    (server, "load_public"): remembered(server.load_public),
    (server, "load_all_private"): remembered(server.load_all_private),
    (server, "load_test"): remembered(server.load_test),
}


class AtOnce(Executor):
    """Does the server's own work when it is submitted.

    Here clients share the server's process, and building networks in two threads at once is not safe: torch's
    global generator and diffusers' loading are the whole process's. A real client has a process of its own.
    """

    def __init__(self, max_workers: int) -> None:
        pass

    def submit(self, work: Any, /, *args: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*args, **keywords))
        return future


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for a running Flower task, read images once, train the feature network for a moment only."""
    monkeypatch.setattr(pfdm, "ThreadPoolExecutor", AtOnce)
    for (module, name), load in LOADERS.items():
        monkeypatch.setattr(module, name, load)
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, RUN)
    monkeypatch.setattr(feature_training, "STEPS", 3)
    monkeypatch.setattr(server, "FEATURE_CACHE", folder / "features")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return ``settings(clients=3)``: the run config of a run of two steps, with these changes."""

    def make(**changes: Any) -> dict[str, Any]:
        run_dir = {"run-dir": str(tmp_path / "run")}
        changes = {key.replace("_", "-"): value for key, value in changes.items()}
        return RunConfig.parse(SMALL | run_dir | changes).flat()

    return make


@pytest.fixture
def site_folder(tmp_path: Path) -> Callable[..., str]:
    """Return ``site_folder("north", range(10), 12)``: a folder with so many PNGs of each of these digits."""

    def make(name: str, digits: Iterable[int], count: int) -> str:
        data = load_digits()
        for digit in digits:
            folder = tmp_path / "sites" / name / str(digit)
            folder.mkdir(parents=True)
            for row in (data.target == digit).nonzero()[0][:count]:
                Image.fromarray((data.images[row] * 255 / 16).astype("uint8")).save(folder / f"{row}.png")
        return str(tmp_path / "sites" / name)

    return make


@pytest.fixture
def site_policy(tmp_path: Path) -> Callable[..., str]:
    """Return ``site_policy("north", epsilon=5.0)``: a site's policy file, generous but for these limits."""

    def make(name: str, **limits: Any) -> str:
        generous = {"epsilon": 100.0, "delta": 1e-5, "schedules": ["linear", "cosine"]}
        settings = generous | {key.replace("_", "-"): value for key, value in limits.items()}
        path = tmp_path / "policies" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        return str(path)

    return make


class FakeGrid(Grid):
    """Flower's connection without Flower: calls the ClientApp at once, hands its reply out when pulled.

    ``behaviour[node]`` may change a reply, raise (as a ClientApp that fails), or return None (no reply).
    """

    def __init__(self, run_config: dict[str, Any], nodes: dict[int, dict[str, Any]]) -> None:
        self.run_config = run_config
        self.nodes = nodes
        self.behaviour: dict[int, Behaviour] = {}
        self.unreachable: set[int] = set()
        self.delay: dict[int, float] = {}
        self.connected: dict[int, str] = {}  # when a node last connected
        self.names: dict[int, str] = {}
        self.sent: list[tuple[int, str, RecordDict]] = []
        self._replies: dict[str, Message] = {}
        self._delay: dict[str, float] = {}
        self._ready: dict[str, float] = {}
        self._messages = 0

    def run_app(self) -> Results:
        """Run the ServerApp and return what it wrote."""
        server_app.app(self, Context(RUN, 0, {}, RecordDict(), self.run_config))
        return Results.read(Path(self.run_config["run-dir"]))

    def start(self) -> PFDM:
        """Run the strategy alone and return it."""
        config = RunConfig.parse(self.run_config)
        strategy = PFDM(config, server.ServerTasks(config, RunFolder.of(config, RUN)))
        strategy.start(self)
        return strategy

    def replies(self, message_type: str) -> list[RecordDict]:
        """Return what the clients sent, before any behaviour changed it."""
        return [content for _, kind, content in self.sent if kind == message_type]

    def releases(self) -> list[dict[str, Any]]:
        """Return the clients' descriptions of their releases, by client."""
        found = [dict(content["message"]) for content in self.replies("train.release")]
        return sorted(found, key=lambda release: str(release["site"]))

    def run(self) -> Any:
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    def create_message(self, *args: Any, **keywords: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *args: Any, **keywords: Any) -> list[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(node_id=k, last_activated_at=self.connected.get(k), name=self.names.get(k))
            for k in self.get_node_ids()
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out replies; a delay begins when a reply is first asked for, all of them having been made."""
        now = time.monotonic()
        here = [name for name in message_ids if name in self._replies]
        ready = [name for name in here if self._ready.setdefault(name, now + self._delay[name]) <= now]
        return [self._replies.pop(name) for name in ready]

    def _push(self, message: Message) -> str:
        node = message.metadata.dst_node_id
        if node in self.unreachable:
            return ""
        self._messages += 1
        name = f"message-{self._messages}"
        message = instruction(message.content, message.metadata.message_type, node, name)
        reply = self._answer(message, node)
        if reply is not None:
            self._replies[name] = reply
            self._delay[name] = self.delay.get(node, 0.0)
        return name

    def _answer(self, message: Message, node: int) -> Message | None:
        try:
            reply: Message | None = client_app(message, self.context(node))
            self.sent.append((node, message.metadata.message_type, reply.content))
            if node in self.behaviour:
                reply = self.behaviour[node](message, reply)
        except Exception as error:
            return Message(Error(2, f"{type(error).__name__}: {error}"), reply_to=message)
        return reply

    def context(self, node: int) -> Context:
        return Context(RUN, node, self.nodes[node], RecordDict(), self.run_config)


def instruction(content: RecordDict, message_type: str, node: int = 1, name: str = "message") -> Message:
    """Return a message as it reaches a client."""
    metadata = Metadata(RUN, name, 1, node, "", "", time.time(), 3600.0, message_type)
    return make_message(metadata, content)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_app, "write_report", lambda folder: None)


@pytest.fixture
def fake_grid() -> type[FakeGrid]:
    return FakeGrid


@pytest.fixture
def ask() -> Callable[..., RecordDict]:
    """Return ``ask(content, "train.release", run_config, node_config)``: what the ClientApp replies."""

    def make(content: RecordDict, message_type: str, run: dict[str, Any], node: dict[str, Any]) -> RecordDict:
        context = Context(RUN, 1, node, RecordDict(), run)
        return client_app(instruction(content, message_type), context).content

    return make


@pytest.fixture
def simulated_nodes() -> Callable[[int], dict[int, dict[str, Any]]]:
    """Return node settings of so many simulated clients, by node id."""

    def make(count: int) -> dict[int, dict[str, Any]]:
        return {100 + k: {"partition-id": k, "num-partitions": count} for k in range(count)}

    return make
