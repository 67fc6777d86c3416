"""What was asked of a node and not answered yet."""

from __future__ import annotations

import time

from flwr.app import RecordDict


class Request:
    """One instruction to one node, under every message by which it was sent.

    Parameters
    ----------
    node
        Node id.
    content, message_type
        The instruction.
    seconds
        Time to answer, from now.

    Attributes
    ----------
    open
        Ids of the messages that may still be answered.
    times
        How often it was sent.
    trouble
        What went wrong last.
    deadline
        ``time.monotonic()`` after which a reply is late.
    """

    def __init__(self, node: int, content: RecordDict, message_type: str, seconds: float) -> None:
        self.node = node
        self.content = content
        self.message_type = message_type
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.open: list[str] = []
        self.times = 0
        self.trouble = ""
        self._connected = ""
        self._reminded = False

    def sent(self, message_id: str | None, connected: str) -> None:
        """Note that it was sent to a node that had connected at this time; no id: it could not be."""
        if message_id:
            self.open.append(message_id)
        self.times += 1
        self._connected = connected

    def lost(self, connected: str | None) -> str:
        """Return why it should be sent again, or nothing.

        Parameters
        ----------
        connected
            When the node last connected; None while it is not connected: then there is nobody to ask.
        """
        if connected is None:
            return ""
        if not self.open:
            return self.trouble or "it was not connected"
        if connected != self._connected:  # a SuperNode keeps messages in memory only
            return "it has connected anew and may have lost the instruction"
        if not self._reminded and time.monotonic() > self.deadline - self.seconds / 2:
            self._reminded = True  # Flower drops a reply that was cut off while it was sent, and says nothing
            return "no reply in half of its time"
        return ""


Requests = dict[int, Request]
"""Open requests by node id: one at a time for each."""
