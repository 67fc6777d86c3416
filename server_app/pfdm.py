"""PFDM as a Flower strategy (arXiv 2504.00952): one noisy upload, a global denoiser, personal denoisers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from flwr.superlink.grid import HttpGrid

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.denoiser import Denoiser, network_arrays
from fedpdiff.federation.protocol import Instruction, PhaseReport
from fedpdiff.federation.server import ServerTasks
from fedpdiff.federation.spool import Spool
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.metrics.features import FeatureNetwork
from fedpdiff.privacy.cautions import Caution
from fedpdiff.records import array_record, pack, unpack
from server_app.collection import Collection
from server_app.exchange import Exchange
from server_app.participants import Participants, UploadingSite
from server_app.requests import Requests

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
        self.participants: Participants[UploadingSite] = Participants(
            config.min_clients, tasks.folder.participants
        )
        self.features: FeatureNetwork | None = None
        self.cautions: list[Caution] = []
        self.seconds: dict[str, float] = {}
        self._fingerprint = code_fingerprint()
        self._pool: list[Spool] = []

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
        # Flower's own simulation has another grid; only there does its code 0 mean a dead worker.
        exchange = Exchange(grid, self.participants.leave_out, deployed=isinstance(grid, HttpGrid))
        self.participants.names = exchange.names
        self.summary()
        with self._phase("waiting for clients"):
            nodes = exchange.wait_for_nodes(config.clients, config.min_clients, config.wait_seconds)
        with self._phase("upload"):
            Collection(exchange, self.participants, self.tasks, seconds).run(nodes)
            self.participants.require_enough()
            self._caution(max(site.manifest.images for site in self.participants.sites.values()))
            spools = [site.spool for site in self.participants.sites.values()]
            self._pool = self.tasks.pool(spools, self.participants.declined)
        with ThreadPoolExecutor(max_workers=1) as pool, self._stopping():
            with self._phase("training"):
                messages = self.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
                requests = exchange.ask_all(messages, seconds)
                # In a thread, so that sites that fail meanwhile are asked again meanwhile.
                training = pool.submit(self._train_global)
                own_work = pool.submit(beside) if beside else None
                self._collect_reports(exchange, requests, False, training)
                half = training.result()
            arrays = array_record(network_arrays(half.network))
            with self._phase("sampling"):
                messages = self.configure_evaluate(1, arrays, ConfigRecord(), grid)
                # A real site sends scores only if its own policy lets them leave.
                self._collect_reports(exchange, exchange.ask_all(messages, seconds), True, own_work)
                if own_work is not None:
                    own_work.result()
        return Result(arrays=arrays)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Stop the global training when the run fails, instead of waiting for its end."""
        try:
            yield
        except BaseException:
            self.tasks.stop()
            raise

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

    def _train_global(self) -> Denoiser:
        """Train the global half; the clients train their personal ones meanwhile."""
        self.features = self.tasks.feature_network(self.participants.simulated)
        return self.tasks.train_global(self._pool)

    def _collect_reports(
        self, exchange: Exchange, requests: Requests, with_scores: bool, beside: Future[Any] | None
    ) -> None:
        """Collect the reports on a phase; ends at once when the server's own work beside it fails."""
        for node, reply in exchange.collect(requests, self._too_late, beside):
            with self.participants.judging(node):
                report, _, metrics = unpack(reply, PhaseReport, metrics=with_scores)
                self.participants.sites[node].report(report, metrics)
        self.participants.require_enough()

    def _too_late(self, node: int) -> None:
        self.participants.leave_out(
            node, "it came when the uploads had already been collected; it can take part in the next run"
        )

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
