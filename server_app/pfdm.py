"""PFDM as a Flower strategy (arXiv 2504.00952): one noisy upload, a global denoiser, personal denoisers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.denoiser import Denoiser, network_arrays
from fedpdiff.errors import MessageError
from fedpdiff.federation.certificates import check_declared
from fedpdiff.federation.disk_share import check_disk_share
from fedpdiff.federation.protocol import (
    Instruction,
    PhaseReport,
    ReleaseInstruction,
    ReleaseManifest,
    ShardInstruction,
    ShardManifest,
)
from fedpdiff.federation.server import ServerTasks
from fedpdiff.federation.spool import Spool, check_manifest
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.metrics.features import FeatureNetwork
from fedpdiff.privacy.cautions import Caution
from fedpdiff.records import array_record, pack, unpack
from server_app.exchange import Exchange, Pending
from server_app.participants import Participants, Site

log = logging.getLogger("flwr")


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
    participants
        Who takes part and who was left out.
    features
        The classifier that metrics rest on; none in a deployment without public images.
    cautions
        What speaks against the privacy that this run gives, as it was logged.
    seconds
        Wall time of each phase.
    """

    def __init__(self, config: RunConfig, tasks: ServerTasks) -> None:
        self.config = config
        self.tasks = tasks
        self.participants = Participants(config.min_clients, tasks.folder.participants)
        self.features: FeatureNetwork | None = None
        self.cautions: list[Caution] = []
        self.seconds: dict[str, float] = {}
        self._fingerprint = code_fingerprint()

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
        self._caution()

    def _caution(self, images: int | None = None) -> None:
        """Log what speaks against this run's privacy, each thing once."""
        for caution in self.tasks.state_privacy(images):
            if caution not in self.cautions:
                log.warning("%s", caution)
                self.cautions.append(caution)

    def start(  # type: ignore[override]  # PFDM has one round and no initial arrays
        self, grid: Grid, timeout: float | None = None, beside: Callable[[], None] | None = None
    ) -> Result:
        """Run all phases.

        Parameters
        ----------
        grid
            Flower's connection to the nodes.
        timeout
            Seconds that a client has for a phase; default ``reply-seconds``.
        beside
            Work of the server's own, for example a simulation's bounds; done in a thread once the global half
            is trained, while clients still train and then sample.

        Raises
        ------
        RunError
            When fewer than ``min-clients`` are left.
        """
        config = self.config
        seconds = float(config.reply_seconds) if timeout is None else timeout
        exchange = Exchange(grid, self.participants.leave_out)
        self.summary()
        with self._phase("waiting for clients"):
            nodes = exchange.wait_for_nodes(config.clients, config.min_clients, config.wait_seconds)
        with self._phase("upload"):
            self._collect_releases(exchange, nodes, seconds)
            self._collect_shards(exchange, seconds)
        with ThreadPoolExecutor(max_workers=1) as pool:
            with self._phase("training"):
                pending = exchange.push(self.configure_train(1, ArrayRecord(), ConfigRecord(), grid), seconds)
                half = self._train_global()
                own_work = pool.submit(beside) if beside else None
                self._collect_reports(exchange, pending, with_scores=False)
            arrays = array_record(network_arrays(half.network))
            with self._phase("sampling"):
                pending = exchange.push(self.configure_evaluate(1, arrays, ConfigRecord(), grid), seconds)
                # A real site sends scores only if its own policy lets them leave.
                self._collect_reports(exchange, pending, with_scores=True)
                if own_work is not None:
                    own_work.result()
        return Result(arrays=arrays)

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

    def _collect_releases(self, exchange: Exchange, nodes: list[int], seconds: float) -> None:
        """Ask every node for its release, and let those take part whose release is the agreed one."""
        agreement, class_names = self.tasks.agreement, self.tasks.class_names
        instruction = ReleaseInstruction(
            **agreement.mechanism.model_dump(), fingerprint=self._fingerprint, class_names=list(class_names)
        )
        content = pack(instruction, {"centre": agreement.centre})
        pending = exchange.push(_messages(content, nodes, "train.release"), seconds)
        for node, reply in exchange.collect(pending):
            with self.participants.judging(node):
                manifest, _, _ = unpack(reply, ReleaseManifest)
                check_manifest(manifest, agreement.mechanism, class_names, self._fingerprint)
                spool = Spool(self.tasks.folder.spool(manifest.site), manifest)
                check_disk_share(manifest, spool.folder, max(self.config.clients, len(nodes)))
                check_declared(manifest, agreement.request(self.config).settings())
                self.participants.join(node, Site(manifest, spool, bytes_down=agreement.centre.nbytes))
                spool.create()
        self.participants.require_enough()
        self._caution(max(site.manifest.images for site in self.participants.sites.values()))

    def _collect_shards(self, exchange: Exchange, seconds: float) -> None:
        """Collect shard after shard from all sites at once, so that memory holds one shard at a time."""
        sites = self.participants.sites
        shards = [site.manifest.shards for site in sites.values()]
        with self.tasks.events.phase("upload", sum(shards)) as progress:
            for shard in range(max(shards)):
                content = pack(ShardInstruction(fingerprint=self._fingerprint, shard=shard))
                asked = [node for node, site in sites.items() if shard < site.manifest.shards]
                pending = exchange.push(_messages(content, asked, "train.upload"), seconds)
                for node, reply in exchange.collect(pending):
                    with self.participants.judging(node):
                        manifest, arrays, _ = unpack(reply, ShardManifest, arrays=True)
                        if manifest.shard != shard:
                            raise MessageError(f"shard {shard} was asked for, not {manifest.shard}")
                        sites[node].spool.accept(manifest, arrays)
                        progress(progress.done + 1, sum(shards))
            for node in list(sites):
                with self.participants.judging(node):
                    sites[node].spool.finish()
        self.participants.require_enough()

    def _train_global(self) -> Denoiser:
        """Train the global half; the clients train their personal ones meanwhile."""
        self.features = self.tasks.feature_network(self.participants.simulated)
        return self.tasks.train_global([site.spool for site in self.participants.sites.values()])

    def _collect_reports(self, exchange: Exchange, pending: Pending, with_scores: bool) -> None:
        for node, reply in exchange.collect(pending):
            with self.participants.judging(node):
                report, _, metrics = unpack(reply, PhaseReport, metrics=with_scores)
                self.participants.sites[node].report(report, metrics)
        self.participants.require_enough()

    # -- Flower's hooks -----------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the instructions to train personal denoisers; they carry no arrays."""
        content = pack(Instruction(fingerprint=self._fingerprint))
        return _messages(content, self.participants.sites, "train.personalize")

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
        if self.features is not None:
            weights |= {f"features/{name}": array for name, array in self.features.to_arrays().items()}
        for site in self.participants.sites.values():
            site.bytes_down += size
        content = pack(Instruction(fingerprint=self._fingerprint), weights)
        return _messages(content, self.participants.sites, "evaluate.sample")

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing: scores are kept per client, in simulation only."""
        return None


def _messages(content: RecordDict, nodes: Iterable[int], message_type: str) -> list[Message]:
    return [Message(content=content, dst_node_id=node, message_type=message_type) for node in nodes]
