"""Instructions to many nodes with a deadline: replies come one at a time, and who fails is asked again."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import httpx
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedpdiff.errors import RunError
from fedpdiff.plain import plain_line
from server_app.requests import Request, Requests

POLL_SECONDS = 0.2
LOOK_SECONDS = 2.0  # how often to look who is connected
BUSY_SECONDS = 5.0
BUSY_TRIES = 6
AT_ONCE = 16  # at least: instructions that simulated clients have at a time
MOST_ASKED = 8  # how often an instruction is sent to one node

# A message, its reply, the SuperNode or the ClientApp was lost: asked again, the client may well answer.
_PASSING = (
    ErrorCode.UNKNOWN,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.CLIENT_APP_CRASHED,
)

log = logging.getLogger("flwr")

Found = TypeVar("Found")
Newcomer = Callable[[int], None]


class Exchange:
    """Sends instructions and hands out replies.

    A real site may lose an instruction or a reply: its process is killed, its machine restarts, its
    connection is cut. Every instruction can be carried out twice without harm, so it is sent again once the
    site is back, until the deadline, at most ``MOST_ASKED`` times in all.

    Parameters
    ----------
    grid
        Flower's connection to the nodes.
    leave_out
        Called with (node id, reason) for a node that failed, stalled or could not be reached.
    deployed
        Whether the nodes are real sites. In a simulation nothing gets lost, and nothing is asked again. Its
        clients take turns on a few workers: only so many are asked at a time as keep those busy, because the
        time to answer runs from then, and Flower's simulation looks through all open messages for each node.

    Attributes
    ----------
    names
        What the coordinator calls the nodes it has seen, where it has named them.
    """

    def __init__(self, grid: Grid, leave_out: Callable[[int, str], None], deployed: bool = False) -> None:
        self.names: dict[int, str] = {}
        self._grid = grid
        self._leave_out = leave_out
        self._deployed = deployed
        self._online: dict[int, str] = {}  # node id: when it last connected
        self._known: set[int] = set()
        self._looked = 0.0

    def wait_for_nodes(self, wanted: int, least: int, seconds: float) -> list[int]:
        """Wait until ``wanted`` nodes are online, or at least ``least`` when the time is up.

        Raises
        ------
        RunError
            When fewer than ``least`` nodes came.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._look()
            nodes = sorted(self._online)
            if len(nodes) >= wanted or (len(nodes) >= least and time.monotonic() > deadline):
                self._known.update(nodes)
                return nodes
            if time.monotonic() > deadline:
                raise RunError(
                    f"only {len(nodes)} of at least {least} clients came within wait-seconds = {seconds:g}; "
                    "start more clients, wait longer or lower min-clients"
                )
            time.sleep(POLL_SECONDS)

    def ask(
        self, requests: Requests, nodes: Iterable[int], content: RecordDict, message_type: str, seconds: float
    ) -> None:
        """Send one instruction to nodes and add it to ``requests``; :meth:`collect` hands out the replies."""
        room = self._room(requests)
        for place, node in enumerate(list(nodes)):
            request = Request(node, content, message_type, seconds)
            requests[node] = request
            if place < room:
                self._send(request, requests)

    def ask_all(self, messages: Iterable[Message], seconds: float) -> Requests:
        """Send messages and return them as open requests."""
        requests: Requests = {}
        for message in messages:
            metadata = message.metadata
            self.ask(requests, [metadata.dst_node_id], message.content, metadata.message_type, seconds)
        return requests

    def collect(
        self, requests: Requests, newcomer: Newcomer | None = None, beside: Future[Any] | None = None
    ) -> Iterator[tuple[int, RecordDict]]:
        """Yield (node id, content) as replies come, one in memory at a time, until none is open.

        Parameters
        ----------
        requests
            Open requests; more may be asked while replies are handed out.
        newcomer
            Called with every node that has connected since :meth:`wait_for_nodes`, once.
        beside
            Work of the server's own; when it fails, its error is raised here.

        Raises
        ------
        RunError
            When a simulation worker died: Flower would hand its dead slot to healthy clients.
        """
        while requests:
            self._meet(newcomer)
            self._send_held(requests)
            if beside is not None and beside.done():
                beside.result()
            heard = False
            for request in list(requests.values()):
                if self._held(request):
                    continue
                late = time.monotonic() > request.deadline  # asked before the look: what is there counts
                for content in self._replies(request, requests):
                    heard = True
                    del requests[request.node]
                    yield request.node, content
                if requests.get(request.node) is request:
                    self._look_after(request, requests, late)
            if requests and not heard:
                time.sleep(POLL_SECONDS)

    # -- nodes --------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Find out who is connected, and since when."""
        self._online = {}
        for node in _patiently(self._grid.get_nodes):
            self._online[node.node_id] = node.last_activated_at
            if node.name:
                self.names[node.node_id] = node.name
        self._looked = time.monotonic()

    def _meet(self, newcomer: Newcomer | None) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._look()
        for node in sorted(set(self._online) - self._known):
            self._known.add(node)
            if newcomer:
                newcomer(node)

    # -- requests -----------------------------------------------------------------------------------------

    def _send(self, request: Request, requests: Requests) -> None:
        """Send an instruction; to a real site that is not connected only once it is."""
        if self._deployed and request.node not in self._online:
            return
        message = Message(
            content=request.content, dst_node_id=request.node, message_type=request.message_type
        )
        ids = _patiently(self._grid.push_messages, [message])
        request.sent(next(iter(ids), ""), self._online.get(request.node, ""))
        if not request.open:
            self._give_up(request, requests, "the message could not be delivered; it is no longer connected")

    def _held(self, request: Request) -> bool:
        """Return whether a simulated client's turn has not come yet."""
        return not self._deployed and not request.times

    def _room(self, requests: Requests) -> int:
        """Return how many more clients may be asked now."""
        if self._deployed:
            return sys.maxsize
        return _at_once() - sum(not self._held(request) for request in requests.values())

    def _send_held(self, requests: Requests) -> None:
        held = [request for request in requests.values() if self._held(request)]
        for request in held[: max(0, self._room(requests))]:
            request.deadline = time.monotonic() + request.seconds
            self._send(request, requests)

    def _replies(self, request: Request, requests: Requests) -> Iterator[RecordDict]:
        """Yield the reply to a request, if there is one; a reply to any of its messages will do."""
        for message_id in list(request.open):
            for reply in _patiently(self._grid.pull_messages, [message_id]):
                request.open.remove(message_id)
                if not reply.has_error():
                    yield reply.content
                    return
                self._failed(request, requests, reply.error.code, (reply.error.reason or "").strip())

    def _failed(self, request: Request, requests: Requests, code: int, reason: str) -> None:
        if code == ErrorCode.UNKNOWN and not self._deployed:
            raise RunError(
                f"a simulation worker died ({plain_line(reason, 300) or 'no reason given'}); most often the "
                "machine or the GPU is out of memory: lower batch-size, or run fewer clients at a time"
            )
        request.trouble = f"the client failed (Flower code {code}): {plain_line(reason[-300:], 300)}"
        if not self._deployed or code not in _PASSING:
            self._give_up(request, requests, request.trouble)

    def _look_after(self, request: Request, requests: Requests, late: bool) -> None:
        """Ask again where the instruction or its reply was lost; leave out whose time is up."""
        if late:
            before = f"; before that, {request.trouble}" if request.trouble else ""
            reason = f"no reply within {request.seconds:g} seconds (reply-seconds){before}"
            self._give_up(request, requests, reason)
        elif self._deployed and (why := request.lost(self._online.get(request.node))):
            if request.times >= MOST_ASKED:
                self._give_up(request, requests, f"{why}, {request.times} times")
                return
            who = self.names.get(request.node, f"node {request.node}")
            log.warning("%s is asked again for %s: %s", who, request.message_type, why)
            self._send(request, requests)

    def _give_up(self, request: Request, requests: Requests, reason: str) -> None:
        if requests.pop(request.node, None):
            self._leave_out(request.node, reason)


def _at_once() -> int:
    """Return how many simulated clients are asked at a time: two for each CPU that Ray has for them."""
    ray = sys.modules.get("ray")  # there, in this very process, where Flower simulates
    if ray is None or not ray.is_initialized():
        return AT_ONCE
    return max(AT_ONCE, 2 * int(ray.cluster_resources().get("CPU", 0)))


def _patiently(call: Callable[..., Iterable[Found]], *arguments: Any) -> list[Found]:
    """Call the SuperLink; again when it fails inside, as it does while its database is busy.

    Flower's own client waits for a SuperLink that is away, but gives up at once on such an answer.
    """
    for _ in range(BUSY_TRIES - 1):
        try:
            return list(call(*arguments))
        except httpx.HTTPStatusError as error:
            if error.response.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                raise
            log.warning("the SuperLink failed (HTTP %s); it is asked again", error.response.status_code)
        time.sleep(BUSY_SECONDS)
    return list(call(*arguments))
