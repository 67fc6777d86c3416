"""Methods that average weights over rounds, on Flower's own FedAvg: the rivals that PFDM is compared with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from fedpdiff.config import RunConfig
from fedpdiff.errors import MessageError, RunError
from fedpdiff.federation.protocol import RoundInstruction, RoundReport
from fedpdiff.federation.round_server import RoundServer, Share
from fedpdiff.federation.server import ServerTasks
from fedpdiff.methods import round_method
from fedpdiff.methods.parts import PARTS
from fedpdiff.methods.weights import Arrays, chosen
from fedpdiff.records import array_record, pack, unpack
from server_app.exchange import Exchange
from server_app.federation import Federation, messages, size
from server_app.joining import join
from server_app.participants import Site

log = logging.getLogger("flwr")


class Rounds(Federation[Site], FedAvg):
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
    server
        The server's side of the method: weights, their average, corrections, and where the run stands.
    """

    too_late = "training had begun already"

    def __init__(self, config: RunConfig, tasks: ServerTasks) -> None:
        FedAvg.__init__(self)
        Federation.__init__(self, config, tasks)
        self.method = round_method(config)
        self.server = RoundServer(tasks, self.method)

    def summary(self) -> None:
        """Log what this run is about to do, and what the server will see."""
        log.info("%s (%s), %s clients", self.method.title, self.method.source, self.config.clients)
        log.info("The server sees %s. Guarantee: %s.", self.method.server_sees, self.method.guarantee)

    def outcome(self) -> dict[str, Any]:
        """Return what ``results.json`` says of the method itself, by field."""
        return {
            "method_title": self.method.title,
            "server_sees": self.method.server_sees,
            "server_steps": self._server_steps(),
            "bytes_between_servers": self.server.state.between_servers,
            "privacy": {"epsilon": None, "guarantee": self.method.guarantee},
            "notes": [f"{self.method.title}: {self.method.source}"],
        }

    def _server_steps(self) -> int:
        """Return the server's gradient steps: all of them where no client trains."""
        return self.server.state.gradient_steps if self.method.clients_train else self.config.personal_steps

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
        exchange, nodes = self.connect(grid)
        with self.phase("joining"):
            join(self, exchange, nodes, self.method.column, seconds)
            self._check_method()
        self._count_earlier_rounds()
        with self.phase("training"):
            self.train_features()
            if self.method.clients_train:
                self._train(exchange, seconds)
        with self.phase("sampling"):
            if self.method.clients_train:
                weights = {f"weights/{name}": array for name, array in self.server.final().items()}
                requests = exchange.ask_all(self.to_sample(weights), seconds)
                self.collect_reports(exchange, requests, with_scores=True)
            if beside:
                beside()
        return Result(arrays=array_record(self.server.averaged))

    def _check_method(self) -> None:
        if not self.method.clients_train and not self.participants.simulated:
            raise RunError(
                f'method = "{self.method.name}" needs all images in one place, which only a simulation has'
            )

    # -- training -----------------------------------------------------------------------------------------

    def _train(self, exchange: Exchange, seconds: float) -> None:
        """Take the rounds that no earlier attempt has finished."""
        started, before = time.monotonic(), self.server.state.seconds

        def finish(number: int) -> None:
            self.server.state.seconds = before + time.monotonic() - started
            self._count(number)

        if self.method.pretraining_steps and self.server.state.round < 0:
            models = self._round(exchange, 0, seconds)
            self.server.draw_auxiliary([model for _, model in models.values()], self._counts(models))
            finish(0)
        with self.tasks.events.phase("rounds", self.method.rounds) as progress:
            first = max(self.server.state.round, 0) + 1
            progress(first - 1, self.method.rounds)
            for number in range(first, self.method.rounds + 1):
                self._average(number, self._round(exchange, number, seconds))
                finish(number)
                progress(number, self.method.rounds)
        if self.method.exchanged == PARTS:
            self.server.save()

    def _round(self, exchange: Exchange, number: int, seconds: float) -> dict[int, tuple[int, Arrays]]:
        """Return each site's edge server and update, by node in the order of the sites' names."""
        ordered = sorted(self.participants.sites, key=lambda node: self.participants.sites[node].name)
        shares = dict(zip(ordered, self.server.shares(number, self._counts(ordered)), strict=True))
        updates: dict[int, tuple[int, Arrays]] = {}
        requests = exchange.ask_all(self._instructions(number, shares), seconds)
        for node, reply in exchange.collect(requests, self.came_too_late):
            with self.participants.judging(node):
                report, arrays, _ = unpack(reply, RoundReport, arrays=True)
                site, share = self.participants.sites[node], shares[node]
                site.report(report, {})
                if report.round != number:
                    raise MessageError(f"round {number} was asked for, not {report.round}")
                updates[node] = share.edge, self.server.incoming(number, share.parts, arrays)
                site.bytes_up += size(arrays)
        self.participants.require_enough()
        return {node: updates[node] for node in ordered if node in updates}

    def _instructions(self, number: int, shares: dict[int, Share]) -> list[Message]:
        """Return each site's instruction for a round, with the weights that it starts from."""
        outgoing = [self.server.outgoing(number, edge) for edge in range(self.method.edges)]
        asked = []
        for node, share in shares.items():
            instruction = RoundInstruction(
                fingerprint=self.fingerprint, round=number, parts=sorted(share.parts)
            )
            weights = outgoing[share.edge]
            asked += messages(pack(instruction, weights), [node], "train.round")
            self.participants.sites[node].bytes_down += size(weights)
        return asked

    def _average(self, number: int, updates: dict[int, tuple[int, Arrays]]) -> None:
        """Average what each edge server's clients sent, by their numbers of images; edge servers may meet."""
        for index, edge in enumerate(self.server.state.edges):
            here = {node: weights for node, (at, weights) in updates.items() if at == index}
            images = [self.participants.sites[node].manifest.images for node in here]
            self.server.take(
                number, edge, self._mean(number, list(here.values()), images), self._counts(here)
            )
        shares = self.server.edge_shares(self._counts(updates))
        if self.server.edges_meet(number):
            networks = [edge.weights for edge in self.server.state.edges]
            self.server.meet(self._mean(number, networks, shares))
        self.server.add_to_average(number)
        if self.method.edges > 1 and number == self.method.rounds:
            averages = [edge.average.weights for edge in self.server.state.edges]
            self.server.meet_at_last(self._mean(number, averages, shares))

    def _mean(self, number: int, updates: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
        """Average each part over those who sent it: Flower's FedAvg."""
        mean: Arrays = {}
        for part in sorted(PARTS):
            replies = [
                self._reply(chosen(update, {part}), weight)
                for update, weight in zip(updates, weights, strict=True)
                if chosen(update, {part})
            ]
            if replies:
                averaged, _ = self.aggregate_train(number, replies)
                mean |= {name: array.numpy() for name, array in (averaged or {}).items()}
        return mean

    def _reply(self, arrays: Arrays, weight: float) -> Message:
        """Return weights as the reply that Flower's aggregation takes."""
        metrics = MetricRecord({self.weighted_by_key: weight})
        content = RecordDict({"arrays": array_record(arrays), "metrics": metrics})
        return Message(content=content, dst_node_id=0, message_type="train.round")

    # -- what has been counted ----------------------------------------------------------------------------

    def _counts(self, nodes: Sequence[int] | dict[int, Any]) -> list[list[int]]:
        """Return sites' images per class."""
        return [self.participants.sites[node].manifest.class_counts for node in nodes]

    def _count_earlier_rounds(self) -> None:
        """Count what was sent, trained and waited for in the rounds that an earlier attempt finished."""
        state = self.server.state
        if state.round < 0:
            return
        log.info("Round %s of %s is finished already; going on after it.", state.round, self.method.rounds)
        self.seconds["training"] = state.seconds
        for site in self.participants.sites.values():
            up, down, steps = state.counted.get(site.name, (0, 0, 0))
            site.bytes_up, site.bytes_down, site.gradient_steps = up, down, steps

    def _count(self, number: int) -> None:
        """Write what a finished round has come to, for another attempt to go on from."""
        for site in self.participants.sites.values():
            self.server.state.counted[site.name] = [site.bytes_up, site.bytes_down, site.gradient_steps]
        self.server.finish_round(number)
