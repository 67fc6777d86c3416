"""What the runs of all methods share: participants, phases with their wall time, reports, sampling."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, ClassVar, Generic

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.superlink.grid import HttpGrid

from fedpdiff.config import RunConfig
from fedpdiff.federation.protocol import Instruction, PhaseReport
from fedpdiff.federation.server import ServerTasks
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.metrics.features import FeatureNetwork
from fedpdiff.records import pack, unpack
from server_app.exchange import Exchange
from server_app.participants import Participants, SiteKind
from server_app.requests import Requests

log = logging.getLogger("flwr")


class Federation(ABC, Generic[SiteKind]):
    """One run, whatever its method; Flower's strategies are this as well.

    Parameters
    ----------
    config
        Checked settings.
    tasks
        The server's computations and the run folder.

    Attributes
    ----------
    participants
        Who takes part and who was left out.
    features
        The classifier that metrics rest on; none in a deployment without public images.
    seconds
        Wall time of each phase.
    """

    too_late: ClassVar[str]
    """When somebody who connects afterwards has come too late, in words."""

    def __init__(self, config: RunConfig, tasks: ServerTasks) -> None:
        self.config = config
        self.tasks = tasks
        self.participants: Participants[SiteKind] = Participants(
            config.min_clients, tasks.folder.participants
        )
        self.features: FeatureNetwork | None = None
        self.seconds: dict[str, float] = {}
        self.fingerprint = code_fingerprint()

    @abstractmethod
    def summary(self) -> None:
        """Log what this run is about to do."""

    @abstractmethod
    def outcome(self) -> dict[str, Any]:
        """Return what ``results.json`` says of the method itself, by field."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name the phase that the run is in, and count its seconds to those that it had before."""
        self.participants.phase = name
        started, before = time.monotonic(), self.seconds.get(name, 0.0)
        log.info("%s ...", name)
        try:
            yield
        finally:
            self.seconds[name] = before + time.monotonic() - started

    def connect(self, grid: Grid) -> tuple[Exchange, list[int]]:
        """Say what is about to be done, wait for the clients, and return the exchange and their nodes.

        Raises
        ------
        RunError
            When fewer than ``min-clients`` came.
        """
        config = self.config
        # Flower's own simulation has another grid; only there does its code 0 mean a dead worker.
        exchange = Exchange(grid, self.participants.leave_out, deployed=isinstance(grid, HttpGrid))
        self.participants.names = exchange.names
        self.summary()
        with self.phase("waiting for clients"):
            nodes = exchange.wait_for_nodes(config.clients, config.min_clients, config.wait_seconds)
        return exchange, nodes

    def train_features(self) -> None:
        """Train, or read, the classifier that metrics rest on."""
        self.features = self.tasks.feature_network(self.participants.simulated)

    def to_sample(self, weights: Mapping[str, np.ndarray]) -> list[Message]:
        """Return the instructions to sample with these weights, and with the metrics' feature network."""
        arrays = dict(weights)
        for site in self.participants.sites.values():
            site.bytes_down += size(arrays)
        if self.features is not None:
            arrays |= {f"features/{name}": array for name, array in self.features.to_arrays().items()}
        content = pack(Instruction(fingerprint=self.fingerprint), arrays)
        return messages(content, self.participants.sites, "evaluate.sample")

    def collect_reports(
        self,
        exchange: Exchange,
        requests: Requests,
        with_scores: bool = False,
        beside: Future[Any] | None = None,
    ) -> None:
        """Collect the reports on a phase; ends at once when the server's own work beside it fails.

        A real site sends scores only if its own policy lets them leave.
        """
        for node, reply in exchange.collect(requests, self.came_too_late, beside):
            with self.participants.judging(node):
                report, _, metrics = unpack(reply, PhaseReport, metrics=with_scores)
                self.participants.sites[node].report(report, metrics)
        self.participants.require_enough()

    def came_too_late(self, node: int) -> None:
        """Leave out a node that has connected now."""
        self.participants.leave_out(node, f"it came when {self.too_late}; it can take part in the next run")


def messages(content: RecordDict, nodes: Iterable[int], message_type: str) -> list[Message]:
    """Return one message with this content to each node."""
    return [Message(content=content, dst_node_id=node, message_type=message_type) for node in nodes]


def size(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the number of bytes of all arrays."""
    return sum(array.nbytes for array in arrays.values())
