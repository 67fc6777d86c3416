"""Messages to many nodes with a deadline: replies come one at a time, and no node's failure ends the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedpdiff.errors import RunError
from fedpdiff.plain import plain_line

POLL_SECONDS = 0.2
_DEAD_WORKER = 0

log = logging.getLogger("flwr")


class Exchange:
    """Sends messages and hands out replies.

    Parameters
    ----------
    grid
        Flower's connection to the nodes.
    leave_out
        Called with (node id, reason) for a node that failed, stalled or could not be reached.
    """

    def __init__(self, grid: Grid, leave_out: Callable[[int, str], None]) -> None:
        self._grid = grid
        self._leave_out = leave_out

    def wait_for_nodes(self, wanted: int, least: int, seconds: float) -> list[int]:
        """Wait until ``wanted`` nodes are online, or at least ``least`` when the time is up.

        Raises
        ------
        RunError
            When fewer than ``least`` nodes came.
        """
        deadline = time.monotonic() + seconds
        while True:
            nodes = sorted(self._grid.get_node_ids())
            if len(nodes) >= wanted or (len(nodes) >= least and time.monotonic() > deadline):
                return nodes
            if time.monotonic() > deadline:
                raise RunError(
                    f"only {len(nodes)} of at least {least} clients came within wait-seconds = {seconds:g}; "
                    "start more clients, wait longer or lower min-clients"
                )
            time.sleep(POLL_SECONDS)

    def push(self, messages: Iterable[Message], seconds: float) -> Pending:
        """Send messages; collect their replies later with :meth:`collect`."""
        messages = list(messages)
        ids = list(self._grid.push_messages(messages))
        nodes = [message.metadata.dst_node_id for message in messages]
        pending = Pending({}, time.monotonic() + seconds, seconds)
        for message_id, node in zip(ids, nodes, strict=True):
            if message_id:
                pending.node_of[message_id] = node
            else:
                self._leave_out(node, "the message could not be delivered; the node is no longer connected")
        return pending

    def collect(self, pending: Pending) -> Iterator[tuple[int, RecordDict]]:
        """Yield (node id, content) as replies come, one in memory at a time, until all came or time is up.

        Raises
        ------
        RunError
            When a simulation worker died: Flower would hand its dead slot to healthy clients.
        """
        while pending.node_of:
            replies = 0
            for message_id in list(pending.node_of):
                for reply in self._grid.pull_messages([message_id]):
                    replies += 1
                    node = pending.node_of.pop(message_id)
                    if reply.has_error():
                        self._failed(node, reply.error.code, reply.error.reason or "")
                    else:
                        yield node, reply.content
            if time.monotonic() > pending.deadline:
                for node in pending.node_of.values():
                    self._leave_out(node, f"no reply within {pending.seconds:g} seconds (reply-seconds)")
                pending.node_of.clear()
            if not replies and pending.node_of:
                time.sleep(POLL_SECONDS)

    def _failed(self, node: int, code: int, reason: str) -> None:
        if code == _DEAD_WORKER:
            raise RunError(
                f"a simulation worker died ({plain_line(reason, 300) or 'no reason given'}); most often the "
                "machine or the GPU is out of memory: lower batch-size, or run fewer clients at a time"
            )
        self._leave_out(node, f"the client failed (Flower code {code}): {reason.strip()[-300:]}")


class Pending:
    """Messages whose replies have not been collected yet.

    Parameters
    ----------
    node_of
        Node id by message id.
    deadline
        ``time.monotonic()`` after which a reply is late.
    seconds
        The time that was given.
    """

    def __init__(self, node_of: dict[str, int], deadline: float, seconds: float) -> None:
        self.node_of = node_of
        self.deadline = deadline
        self.seconds = seconds
