"""Real sites that lose an instruction, a reply or a process are asked again, and left out only in the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Error, Message, RecordDict

from fedpdiff.errors import RunError
from fedpdiff.federation import spool
from server_app import exchange, federation, requests
from server_app.exchange import MOST_ASKED, Exchange

Settings = Callable[..., dict[str, Any]]
Behaviour = Callable[[Message, Message], Message | None]
ACTIONS = ["train.release", "train.upload", "train.personalize", "evaluate.sample"]
OFFLINE, DIED = 5, 8


@pytest.fixture
def sites(
    fake_grid: Any, settings: Settings, site_folder: Any, site_policy: Any, tmp_path: Path, monkeypatch: Any
) -> Callable[..., Any]:
    """Return ``sites(3)``: a grid of three real sites, north, south and west (nodes 11, 12, 13)."""
    monkeypatch.setattr(federation, "HttpGrid", fake_grid)  # as the deployment engine's
    monkeypatch.setattr(exchange, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(exchange, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(spool, "SHARD_BYTES", 64 * 16)  # 16 images a shard

    def make(count: int = 3, **changes: Any) -> Any:
        nodes = {
            node: {
                "data-path": site_folder(name, range(10), 4),
                "state-dir": str(tmp_path / f"state-{name}"),
                "policy": site_policy(name),
                "site-name": name,
            }
            for node, name in list(enumerate(("north", "south", "west"), start=11))[:count]
        }
        grid = fake_grid(settings(clients=count, **({"reply-seconds": 20} | changes)), nodes)
        grid.names = {node: str(config["site-name"]) for node, config in nodes.items()}
        return grid

    return make


def first(times: int, action: str, change: Behaviour) -> Behaviour:
    """Return a behaviour that changes the first replies to one action."""
    left = times

    def changed(message: Message, reply: Message) -> Message | None:
        nonlocal left
        if message.metadata.message_type != action or left == 0:
            return reply
        left -= 1
        return change(message, reply)

    return changed


def broken(code: int) -> Behaviour:
    return lambda message, reply: Message(Error(code, "it broke"), reply_to=message)


def names(strategy: Any) -> set[str]:
    return {site.name for site in strategy.participants.sites.values()}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("code", [0, 3, 4, OFFLINE, DIED])
def test_a_site_that_breaks_twice_still_takes_part(action: str, code: int, sites: Any) -> None:
    grid = sites(2)
    grid.behaviour[12] = first(2, action, broken(code))
    strategy = grid.start()
    assert names(strategy) == {"north", "south"}
    assert strategy.participants.refused == []
    asked = [kind for node, kind, _ in grid.sent if node == 12]
    shards = 2  # 40 images, 30 % of them kept for evaluation
    assert asked.count(action) == (shards if action == "train.upload" else 1) + 2


def test_a_site_that_always_breaks_is_left_out(sites: Any, caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    grid = sites(3, **{"min-clients": 2})
    grid.behaviour[13] = first(-1, "train.personalize", broken(DIED))
    strategy = grid.start()
    assert names(strategy) == {"north", "south"}
    (refusal,) = strategy.participants.refused
    assert (refusal.site, refusal.phase) == ("west", "training")
    assert f"code {DIED}): it broke, {MOST_ASKED} times" in refusal.reason
    again = [r.message for r in caplog.records if "west is asked again for train.personalize" in r.message]
    assert len(again) == MOST_ASKED - 1


@pytest.mark.parametrize("code", [1, 2, 7])
def test_what_will_not_pass_is_not_asked_again(code: int, sites: Any) -> None:
    """An app that cannot be loaded, raises, or is refused by the site."""
    grid = sites(3, **{"min-clients": 2})
    grid.behaviour[13] = first(-1, "train.release", broken(code))
    strategy = grid.start()
    assert [r.site for r in strategy.participants.refused] == ["west"]
    assert [kind for node, kind, _ in grid.sent if node == 13] == ["train.release"]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_site_that_has_restarted_is_asked_again(action: str, sites: Any) -> None:
    """Its SuperNode kept the instruction in memory only; nobody says that it is lost."""
    grid = sites(2, **{"reply-seconds": 3600})  # far away: neither deadline nor its half helps

    def lose(message: Message, reply: Message) -> None:
        grid.connected[12] = "later"

    grid.behaviour[12] = first(1, action, lose)
    strategy = grid.start()
    assert names(strategy) == {"north", "south"}


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (exchange, requests):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.mark.parametrize("action", ACTIONS)
def test_a_lost_reply_is_asked_for_again_at_half_time(action: str, sites: Any, clock: Clock) -> None:
    grid = sites(2, **{"reply-seconds": 600})
    grid.behaviour[12] = first(1, action, lambda message, reply: None)
    strategy = grid.start()
    assert names(strategy) == {"north", "south"}


def test_a_site_is_waited_for_while_it_is_away(sites: Any) -> None:
    grid = sites(2)
    away = dict(grid.nodes)

    def leave(message: Message, reply: Message) -> Message:
        del grid.nodes[12]
        return broken(OFFLINE)(message, reply)  # type: ignore[return-value]

    looks = 0

    def get_node_ids() -> list[int]:
        nonlocal looks
        looks += 12 not in grid.nodes
        if looks > 5:
            grid.nodes[12] = away[12]
        return list(grid.nodes)

    grid.get_node_ids = get_node_ids
    grid.behaviour[12] = first(1, "train.personalize", leave)
    assert names(grid.start()) == {"north", "south"}


def test_a_site_that_stays_away_is_left_out_in_the_end(sites: Any, clock: Clock) -> None:
    grid = sites(3, **{"reply-seconds": 600, "min-clients": 2})

    def leave(message: Message, reply: Message) -> Message:
        del grid.nodes[13]
        return broken(OFFLINE)(message, reply)  # type: ignore[return-value]

    grid.behaviour[13] = first(1, "train.release", leave)
    strategy = grid.start()
    assert names(strategy) == {"north", "south"}
    (refusal,) = strategy.participants.refused
    assert refusal.site == "west"
    assert "no reply within 600 seconds (reply-seconds); before that, the client failed" in refusal.reason


def test_a_site_that_comes_while_others_upload_takes_part(sites: Any) -> None:
    grid = sites(3, **{"wait-seconds": 1, "min-clients": 2})
    late = grid.nodes.pop(13)

    def appear(message: Message, reply: Message) -> Message:
        grid.nodes[13] = late
        return reply

    grid.behaviour[11] = first(1, "train.upload", appear)
    strategy = grid.start()
    assert names(strategy) == {"north", "south", "west"}


def test_a_site_that_comes_after_the_upload_is_named(sites: Any) -> None:
    grid = sites(3, **{"wait-seconds": 1, "min-clients": 2})
    late = grid.nodes.pop(13)

    def appear(message: Message, reply: Message) -> Message:
        grid.nodes[13] = late
        return reply

    grid.behaviour[11] = first(1, "train.personalize", appear)
    strategy = grid.start()
    assert names(strategy) == {"north", "south"}
    assert [(r.site, r.phase) for r in strategy.participants.refused] == [("west", "training")]
    assert "next run" in strategy.participants.refused[0].reason
    assert [kind for node, kind, _ in grid.sent if node == 13] == []


def test_in_a_simulation_nothing_is_asked_again(fake_grid: Any, settings: Settings) -> None:
    """A worker that died would take its slot's next client with it."""
    grid = fake_grid(settings(), {100: {"partition-id": 0, "num-partitions": 1}})
    left_out: list[str] = []
    asking = Exchange(grid, lambda node, reason: left_out.append(reason))
    asking.wait_for_nodes(1, 1, 1)
    grid.behaviour[100] = broken(DIED)
    open_requests: Any = {}
    asking.ask(open_requests, [100], RecordDict(), "train.upload", 5)
    assert list(asking.collect(open_requests)) == []
    assert len(left_out) == len(grid.sent) == 1
    grid.behaviour[100] = broken(0)
    asking.ask(open_requests, [100], RecordDict(), "train.upload", 5)
    with pytest.raises(RunError, match="a simulation worker died"):
        list(asking.collect(open_requests))


def test_a_late_reply_to_the_first_message_counts(sites: Any, clock: Clock) -> None:
    """It was slow, not lost: whichever of two messages is answered first, the other is forgotten."""
    grid = sites(1, **{"min-clients": 1})
    slow: list[str] = []
    push, pull = grid._push, grid.pull_messages

    def pushed(message: Message) -> str:
        slow.append(push(message))
        return slow[-1]

    def pulled(message_ids: list[str]) -> list[Message]:
        return pull(message_ids) if len(slow) == 2 and message_ids == slow[:1] else []

    grid._push, grid.pull_messages = pushed, pulled
    asking = Exchange(grid, lambda node, reason: pytest.fail(reason), deployed=True)
    nodes = asking.wait_for_nodes(1, 1, 1)
    open_requests: Any = {}
    asking.ask(open_requests, nodes, RecordDict(), "train.upload", 600)
    assert [node for node, _ in asking.collect(open_requests)] == nodes
    assert len(slow) == 2
    assert 300 < clock.now < 600


def test_what_fails_beside_the_collection_ends_it(sites: Any) -> None:
    """The server's own training in another thread: nobody waits for replies to a run that has failed."""
    grid = sites(1, **{"min-clients": 1})
    asking = Exchange(grid, lambda node, reason: pytest.fail(reason), deployed=True)
    nodes = asking.wait_for_nodes(1, 1, 1)
    open_requests: Any = {}
    grid.behaviour[nodes[0]] = lambda message, reply: None
    asking.ask(open_requests, nodes, RecordDict(), "train.upload", 600)
    failed: Future[None] = Future()
    failed.set_exception(RunError("training diverged"))
    with pytest.raises(RunError, match="diverged"):
        list(asking.collect(open_requests, beside=failed))


def test_a_superlink_that_fails_for_a_moment_is_asked_again(sites: Any, clock: Clock) -> None:
    """Its database was busy; what it refuses for good is not repeated."""
    grid = sites(1, **{"min-clients": 1})
    answers = {"get_nodes": 3, "push_messages": 3, "pull_messages": 3}

    def failing(name: str, status: int) -> Callable[..., Any]:
        real = getattr(grid, name)

        def call(*arguments: Any) -> Any:
            answers[name] -= 1
            if answers[name] >= 0:
                raise httpx.HTTPStatusError(
                    "no", request=httpx.Request("POST", "https://a"), response=httpx.Response(status)
                )
            return real(*arguments)

        return call

    for name in answers:
        setattr(grid, name, failing(name, 500))
    assert names(grid.start()) == {"north"}
    answers["get_nodes"] = 1
    grid.get_nodes = failing("get_nodes", 403)
    with pytest.raises(httpx.HTTPStatusError):
        grid.start()
