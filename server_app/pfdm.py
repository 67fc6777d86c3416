"""PFDM as a Flower strategy (arXiv 2504.00952): one noisy upload, a global denoiser, personal denoisers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.denoiser import Denoiser, network_arrays
from fedpdiff.errors import FedpdiffError, MessageError, RunError
from fedpdiff.federation.protocol import (
    Instruction,
    PhaseReport,
    ProtocolModel,
    ReleaseInstruction,
    ReleaseManifest,
    ShardInstruction,
    ShardManifest,
)
from fedpdiff.federation.server import ServerTasks
from fedpdiff.federation.spool import Spool, check_manifest
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.metrics.features import FeatureNetwork
from fedpdiff.records import pack, unpack
from fedpdiff.results import Refusal
from server_app.exchange import Exchange, Pending

log = logging.getLogger("flwr")


@dataclass
class Site:
    """A client that takes part: its manifest, its spool, its traffic and, in simulation, its scores."""

    node: int
    manifest: ReleaseManifest
    spool: Spool
    bytes_down: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class PFDM(Strategy):
    """Train a global denoiser on one noisy upload per client, while clients train personal ones.

    Parameters
    ----------
    config
        Checked settings.
    tasks
        The server's computations and the run folder.

    Attributes
    ----------
    sites
        Clients still taking part, by node id.
    refused
        Who was left out, in which phase and why.
    seconds
        Wall time of each phase.
    """

    def __init__(self, config: RunConfig, tasks: ServerTasks) -> None:
        self.config = config
        self.tasks = tasks
        self.fingerprint = code_fingerprint()
        self.sites: dict[int, Site] = {}
        self.refused: list[Refusal] = []
        self.seconds: dict[str, float] = {}
        self._phase = "waiting for clients"
        self._features: FeatureNetwork | None = None

    def summary(self) -> None:
        """Log what this run is about to do."""
        mechanism = self.tasks.agreement.mechanism
        log.info(
            "PFDM: %s clients, release at t0 = %s of %s (%s), clip %.4g, %s bits per value",
            self.config.clients,
            mechanism.t0,
            mechanism.diffusion_steps,
            mechanism.schedule,
            mechanism.clip,
            mechanism.wire_bits,
        )

    def start(  # type: ignore[override]  # PFDM has one round and no initial arrays
        self, grid: Grid, timeout: float | None = None, while_sampling: Callable[[], None] | None = None
    ) -> Result:
        """Run all phases.

        Parameters
        ----------
        grid
            Flower's connection to the nodes.
        timeout
            Seconds that a client has for a phase; default ``reply-seconds``.
        while_sampling
            Work of the server's own to do while the clients sample, for example a simulation's bounds.

        Raises
        ------
        RunError
            When fewer than ``min-clients`` are left.
        """
        seconds = float(self.config.reply_seconds) if timeout is None else timeout
        exchange = Exchange(grid, self._leave_out)
        self.summary()
        with self._timed("waiting for clients"):
            nodes = exchange.wait_for_nodes(
                self.config.clients, self.config.min_clients, self.config.wait_seconds
            )
        with self._timed("upload"):
            self._collect_releases(exchange, nodes, seconds)
            self._collect_shards(exchange, seconds)
        with self._timed("training"):
            half = self._train(exchange, grid, seconds)
        arrays = ArrayRecord({name: _array(a) for name, a in network_arrays(half.network).items()})
        with self._timed("sampling"):
            pending = exchange.push(self.configure_evaluate(1, arrays, ConfigRecord(), grid), seconds)
            if while_sampling is not None:
                while_sampling()
            self._collect_reports(exchange, pending, with_metrics=True)
        self._check_quorum()
        return Result(arrays=arrays)

    # -- phases -------------------------------------------------------------------------------------------

    def _collect_releases(self, exchange: Exchange, nodes: list[int], seconds: float) -> None:
        agreement = self.tasks.agreement
        instruction = ReleaseInstruction(
            **agreement.mechanism.model_dump(),
            fingerprint=self.fingerprint,
            class_names=list(self.tasks.class_names),
        )
        content = pack(instruction, {"centre": agreement.centre})
        pending = exchange.push([_message(content, node, "train.release") for node in nodes], seconds)
        for node, reply in exchange.collect(pending):
            with self._refusing(node):
                manifest, _, _ = unpack(reply, ReleaseManifest)
                check_manifest(manifest, agreement.mechanism, self.tasks.class_names, self.fingerprint)
                if any(site.manifest.site == manifest.site for site in self.sites.values()):
                    raise MessageError(f"another client already takes part as {manifest.site!r}")
                spool = Spool(self.tasks.folder.spool(manifest.site), manifest)
                self.sites[node] = Site(node, manifest, spool, bytes_down=agreement.centre.nbytes)
        self._check_quorum()

    def _collect_shards(self, exchange: Exchange, seconds: float) -> None:
        """Collect shard after shard from all sites at once, so that memory holds one shard at a time."""
        total = sum(site.manifest.shards for site in self.sites.values())
        with self.tasks.events.phase("upload", total) as progress:
            done = 0
            for shard in range(max(site.manifest.shards for site in self.sites.values())):
                content = pack(ShardInstruction(fingerprint=self.fingerprint, shard=shard))
                asked = [node for node, site in self.sites.items() if shard < site.manifest.shards]
                pending = exchange.push([_message(content, node, "train.upload") for node in asked], seconds)
                for node, reply in exchange.collect(pending):
                    with self._refusing(node):
                        manifest, arrays, _ = unpack(reply, ShardManifest, arrays=True)
                        if manifest.shard != shard:
                            raise MessageError(f"shard {shard} was asked for, shard {manifest.shard} was sent")
                        self.sites[node].spool.accept(manifest, arrays)
                        done += 1
                        progress(done, total)
            for node in list(self.sites):
                with self._refusing(node):
                    self.sites[node].spool.complete()
        self._check_quorum()

    def _train(self, exchange: Exchange, grid: Grid, seconds: float) -> Denoiser:
        """Train the global half while the clients train their personal ones."""
        pending = exchange.push(self.configure_train(1, ArrayRecord(), ConfigRecord(), grid), seconds)
        simulated = self.simulated
        self._features = self.tasks.feature_network(simulated)
        half = self.tasks.train_global([site.spool for site in self.sites.values()])
        self._collect_reports(exchange, pending, with_metrics=False)
        self._check_quorum()
        return half

    def _collect_reports(self, exchange: Exchange, pending: Pending, with_metrics: bool) -> None:
        for node, reply in exchange.collect(pending):
            with self._refusing(node):
                _, _, metrics = unpack(reply, PhaseReport, metrics=with_metrics and self.simulated)
                self.sites[node].metrics |= metrics

    @property
    def simulated(self) -> bool:
        """Whether all clients are simulated; only then may the server look at raw data and scores."""
        return all(site.manifest.number is not None for site in self.sites.values())

    @property
    def features(self) -> FeatureNetwork | None:
        """The classifier that metrics rest on; none in a deployment without public images."""
        return self._features

    # -- Flower's hooks -----------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the instructions to train personal denoisers; they carry no arrays."""
        content = pack(Instruction(fingerprint=self.fingerprint))
        return [_message(content, node, "train.personalize") for node in self.sites]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return nothing: personal denoisers never leave their clients, so there is nothing to aggregate."""
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the instructions to sample, with the global half and the metrics' feature network."""
        weights = {f"global/{name}": array.numpy() for name, array in arrays.items()}
        size = sum(array.nbytes for array in weights.values())
        if self._features is not None:
            weights |= {f"features/{name}": array for name, array in self._features.to_arrays().items()}
        content = pack(Instruction(fingerprint=self.fingerprint), weights)
        for site in self.sites.values():
            site.bytes_down += size
        return [_message(content, node, "evaluate.sample") for node in self.sites]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing: scores are kept per client, in simulation only."""
        return None

    # -- who takes part -----------------------------------------------------------------------------------

    @contextmanager
    def _refusing(self, node: int) -> Iterator[None]:
        """Leave a node out when its reply is not acceptable."""
        try:
            if node in self.sites or self._phase == "upload":
                yield
            else:
                raise MessageError("a reply came from a node that was already left out")
        except FedpdiffError as error:
            self._leave_out(node, str(error))

    def _leave_out(self, node: int, reason: str) -> None:
        site = self.sites.pop(node, None)
        name = site.manifest.site if site else f"node {node}"
        if site and self._phase == "upload":
            site.spool.discard()
        log.warning("%s is left out of %s: %s", name, self._phase, reason)
        self.refused.append(Refusal(site=name, phase=self._phase, reason=reason))

    def _check_quorum(self) -> None:
        if len(self.sites) < self.config.min_clients:
            reasons = "; ".join(f"{r.site} ({r.phase}): {r.reason}" for r in self.refused)
            raise RunError(
                f"{len(self.sites)} clients are left, but min-clients = {self.config.min_clients}. Left out: {reasons}"
            )

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        self._phase = phase
        started = time.monotonic()
        log.info("%s ...", phase)
        try:
            yield
        finally:
            self.seconds[phase] = time.monotonic() - started


def _message(content: RecordDict, node: int, message_type: str) -> Message:
    return Message(content=content, dst_node_id=node, message_type=message_type)


def _array(values: np.ndarray) -> object:
    from flwr.app import Array

    return Array(np.ascontiguousarray(values))


__all__ = ["PFDM", "ProtocolModel", "Site"]
