"""Simulated clients take turns: few are asked at a time, and the time to answer runs from then."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from server_app import exchange, requests
from server_app.exchange import Exchange

TURN = 10.0  # seconds that a client takes


class OneWorker:
    """A simulation with one worker: answers messages one after the other, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.open: dict[str, int] = {}  # node by message, in the order of asking
        self.most_open = 0
        self.made = 0
        self._began = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def get_nodes(self) -> Iterable[Any]:
        return [SimpleNamespace(node_id=k, last_activated_at="", name="") for k in range(1, 7)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            if not self.open:
                self._began = self.now
            self.made += 1
            self.open[f"message-{self.made}"] = message.metadata.dst_node_id
            self.most_open = max(self.most_open, len(self.open))
            yield f"message-{self.made}"

    def pull_messages(self, ids: Iterable[str]) -> Iterable[Any]:
        for name in ids:
            if name == next(iter(self.open), "") and self.now >= self._began + TURN:
                node = self.open.pop(name)
                self._began = self.now
                content = RecordDict()
                yield SimpleNamespace(has_error=lambda: False, content=content, node=node)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> OneWorker:
    worker = OneWorker()
    clock = SimpleNamespace(monotonic=lambda: worker.now, sleep=worker.sleep)
    for module in (exchange, requests):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(exchange, "AT_ONCE", 2)
    monkeypatch.setattr(exchange, "_at_once", lambda: exchange.AT_ONCE)
    return worker


def answered(worker: OneWorker, seconds: float, deployed: bool = False) -> tuple[list[int], list[int]]:
    """Ask six nodes; return who answered and who was left out."""
    left_out: list[int] = []
    asking = Exchange(worker, lambda node, _: left_out.append(node), deployed)  # type: ignore[arg-type]
    nodes = asking.wait_for_nodes(6, 6, 1.0)
    open_: requests.Requests = {}
    asking.ask(open_, nodes, RecordDict(), "train.personalize", seconds)
    return [node for node, _ in asking.collect(open_)], left_out


def test_a_long_queue_is_no_missed_deadline(worker: OneWorker) -> None:
    # Six turns take 60 s, two take 20 s: from its own asking, everybody answers within 25 s.
    assert answered(worker, 25.0) == ([1, 2, 3, 4, 5, 6], [])
    assert worker.most_open == 2


def test_real_sites_are_asked_all_at_once(worker: OneWorker) -> None:
    answered(worker, 1000.0, deployed=True)
    assert worker.most_open == 6


def test_a_simulation_keeps_every_cpu_of_ray_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SimpleNamespace(is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 64.0})
    monkeypatch.setitem(exchange.sys.modules, "ray", ray)
    assert exchange._at_once() == 128
    ray.cluster_resources = dict
    assert exchange._at_once() == exchange.AT_ONCE
