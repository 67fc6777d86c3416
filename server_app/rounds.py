"""Methods that average weights over rounds, on Flower's own FedAvg: the rivals that PFDM is compared with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from flwr.superlink.grid import HttpGrid

from fedpdiff.config import RunConfig
from fedpdiff.errors import MessageError, RunError
from fedpdiff.federation.protocol import (
    Instruction,
    JoinInstruction,
    JoinManifest,
    PhaseReport,
    RoundInstruction,
    RoundReport,
)
from fedpdiff.federation.round_server import RoundServer
from fedpdiff.federation.server import ServerTasks
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.methods import round_method
from fedpdiff.methods.base import Arrays, chosen
from fedpdiff.methods.parts import PARTS
from fedpdiff.metrics.features import FeatureNetwork
from fedpdiff.privacy.cautions import Caution
from fedpdiff.records import array_record, pack, unpack
from server_app.exchange import Exchange
from server_app.participants import Participants, Site

log = logging.getLogger("flwr")


class Rounds(FedAvg):
    """Train one method round by round.

    Parameters
    ----------
    config
        Checked settings.
    tasks
        The server's computations and the run folder.

    Attributes
    ----------
    method
        The method that the settings name.
    participants
        Who takes part and who was left out.
    server
        The server's side of the method: weights, their average, corrections.
    features
        The classifier that metrics rest on; none in a deployment without public images.
    cautions
        Empty: what speaks against the privacy of such a run is said by the method itself.
    seconds
        Wall time of each phase.
    """

    def __init__(self, config: RunConfig, tasks: ServerTasks) -> None:
        super().__init__()
        self.config = config
        self.tasks = tasks
        self.method = round_method(config)
        self.participants: Participants[Site] = Participants(config.min_clients, tasks.folder.participants)
        self.server = RoundServer(tasks, self.method)
        self.features: FeatureNetwork | None = None
        self.cautions: list[Caution] = []
        self.seconds: dict[str, float] = {}
        self._fingerprint = code_fingerprint()

    def summary(self) -> None:
        """Log what this run is about to do, and what the server will see."""
        log.info("%s (%s), %s clients", self.method.title, self.method.source, self.config.clients)
        log.info("The server sees %s. Guarantee: %s.", self.method.server_sees, self.method.guarantee)

    def start(  # type: ignore[override]  # the first weights are the method's
        self, grid: Grid, timeout: float | None = None, beside: Callable[[], None] | None = None
    ) -> Result:
        """Run all phases; arguments as in :meth:`server_app.pfdm.PFDM.start`, ``beside`` runs at the end.

        Raises
        ------
        RunError
            When fewer than ``min-clients`` are left, or only a simulation could do this.
        """
        seconds = float(self.config.reply_seconds) if timeout is None else timeout
        exchange = Exchange(grid, self.participants.leave_out, deployed=isinstance(grid, HttpGrid))
        self.participants.names = exchange.names
        self.summary()
        with self._phase("waiting for clients"):
            nodes = exchange.wait_for_nodes(
                self.config.clients, self.config.min_clients, self.config.wait_seconds
            )
        with self._phase("joining"):
            self._join(exchange, nodes, seconds)
        with self._phase("training"):
            self.features = self.tasks.feature_network(self.participants.simulated)
            if self.method.clients_train:
                self._train(exchange, seconds)
        with self._phase("sampling"):
            if self.method.clients_train:
                self._sample(exchange, seconds)
            if beside:
                beside()
        return Result(arrays=array_record(self.server.average.weights))

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.participants.phase = name
        started = time.monotonic()
        log.info("%s ...", name)
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - started

    # -- phases -------------------------------------------------------------------------------------------

    def _join(self, exchange: Exchange, nodes: list[int], seconds: float) -> None:
        class_names = self.tasks.class_names
        content = pack(JoinInstruction(fingerprint=self._fingerprint, class_names=list(class_names)))
        requests = exchange.ask_all(_messages(content, nodes, "query.join"), seconds)
        for node, reply in exchange.collect(requests):
            with self.participants.judging(node):
                manifest, _, _ = unpack(reply, JoinManifest)
                _check_join(manifest, len(class_names), self._fingerprint)
                self.participants.join(node, Site(manifest, columns=(self.method.column, "own")))
        self.participants.require_enough()
        if not self.method.clients_train and not self.participants.simulated:
            raise RunError(
                f'method = "{self.method.name}" needs all images in one place, which only a simulation has'
            )

    def _train(self, exchange: Exchange, seconds: float) -> None:
        if self.method.pretraining_steps:
            models = self._round(exchange, 0, seconds)
            sites = [self.participants.sites[node] for node in models]
            self.server.draw_auxiliary(list(models.values()), [site.manifest.class_counts for site in sites])
        with self.tasks.events.phase("rounds", self.method.rounds) as progress:
            for number in range(1, self.method.rounds + 1):
                self.server.take(number, self._average(number, self._round(exchange, number, seconds)))
                progress(number, self.method.rounds)
        if self.method.exchanged == PARTS:
            self.server.save()

    def _round(self, exchange: Exchange, number: int, seconds: float) -> dict[int, Arrays]:
        """Return each site's update of a round, by node in the order of the sites' names."""
        ordered = sorted(self.participants.sites, key=lambda node: self.participants.sites[node].name)
        parts = dict(zip(ordered, self.server.roles(number, len(ordered)), strict=True))
        weights = self.server.outgoing(number)
        messages = []
        for node in ordered:
            instruction = RoundInstruction(
                fingerprint=self._fingerprint, round=number, parts=sorted(parts[node])
            )
            messages += _messages(pack(instruction, weights), [node], "train.round")
            self.participants.sites[node].bytes_down += _size(weights)
        updates: dict[int, Arrays] = {}
        for node, reply in exchange.collect(exchange.ask_all(messages, seconds), self._too_late):
            with self.participants.judging(node):
                report, arrays, _ = unpack(reply, RoundReport, arrays=True)
                site = self.participants.sites[node]
                site.report(report, {})
                if report.round != number:
                    raise MessageError(f"round {number} was asked for, not {report.round}")
                updates[node] = self.server.incoming(number, parts[node], arrays)
                site.bytes_up += _size(arrays)
        self.participants.require_enough()
        return {node: updates[node] for node in ordered if node in updates}

    def _average(self, number: int, updates: dict[int, Arrays]) -> Arrays:
        """Average each part over the sites that trained it, by their numbers of images: Flower's FedAvg."""
        aggregate: Arrays = {}
        for part in sorted(self.method.exchanged):
            replies = [
                self._reply(node, chosen(weights, {part}))
                for node, weights in updates.items()
                if chosen(weights, {part})
            ]
            if replies:
                averaged, _ = super().aggregate_train(number, replies)
                aggregate |= {name: array.numpy() for name, array in (averaged or {}).items()}
        return aggregate

    def _reply(self, node: int, weights: Arrays) -> Message:
        """Return weights as the reply that Flower's aggregation takes."""
        images = self.participants.sites[node].manifest.images
        content = RecordDict(
            {"arrays": array_record(weights), "metrics": MetricRecord({self.weighted_by_key: images})}
        )
        return Message(content=content, dst_node_id=node, message_type="train.round")

    def _sample(self, exchange: Exchange, seconds: float) -> None:
        weights = {f"weights/{name}": array for name, array in self.server.final().items()}
        for site in self.participants.sites.values():
            site.bytes_down += _size(weights)
        if self.features is not None:
            weights |= {f"features/{name}": array for name, array in self.features.to_arrays().items()}
        content = pack(Instruction(fingerprint=self._fingerprint), weights)
        requests = exchange.ask_all(_messages(content, self.participants.sites, "evaluate.sample"), seconds)
        for node, reply in exchange.collect(requests, self._too_late):
            with self.participants.judging(node):
                report, _, metrics = unpack(reply, PhaseReport, metrics=True)
                self.participants.sites[node].report(report, metrics)
        self.participants.require_enough()

    def _too_late(self, node: int) -> None:
        self.participants.leave_out(
            node, "it came when training had begun already; it can take part in the next run"
        )


def _check_join(manifest: JoinManifest, classes: int, fingerprint: str) -> None:
    if manifest.fingerprint != fingerprint:
        raise MessageError(
            f"{manifest.site} runs other code (fingerprint {manifest.fingerprint[:12]}, server "
            f"{fingerprint[:12]}); install the same version on both sides"
        )
    counts = manifest.class_counts
    if len(counts) != classes or min(counts) < 0 or not manifest.images:
        raise MessageError(
            f"{manifest.site} declares class_counts = {counts}: must be {classes} numbers of at least 0, not "
            "all 0"
        )
    if manifest.number is not None and manifest.site != f"client-{manifest.number}":
        raise MessageError(
            f"{manifest.site} declares number = {manifest.number}: only client-{manifest.number} may"
        )


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


def _messages(content: RecordDict, nodes: Iterable[int], message_type: str) -> list[Message]:
    return [Message(content=content, dst_node_id=node, message_type=message_type) for node in nodes]
