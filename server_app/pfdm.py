"""PFDM as a Flower strategy (arXiv 2504.00952): one noisy upload, a global denoiser, personal denoisers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.denoiser import to_arrays
from fedpdiff.federation.protocol import Instruction
from fedpdiff.federation.server import ServerTasks
from fedpdiff.federation.spool import Spool
from fedpdiff.privacy.cautions import Caution
from fedpdiff.records import array_record, pack
from server_app.collection import Collection
from server_app.federation import Federation, messages
from server_app.participants import UploadingSite
from server_app.pfdm_outcome import outcome

log = logging.getLogger("flwr")


class PFDM(Federation[UploadingSite], Strategy):
    """Train a global denoiser on one noisy upload per client, while clients train personal ones.

    Parameters
    ----------
    config
        Checked settings.
    tasks
        The server's computations and the run folder.

    Attributes
    ----------
    cautions
        What speaks against the privacy that this run gives, as it was logged.
    """

    too_late = "the uploads had already been collected"

    def __init__(self, config: RunConfig, tasks: ServerTasks) -> None:
        super().__init__(config, tasks)
        self.cautions: list[Caution] = []
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

    def outcome(self) -> dict[str, Any]:
        """Return what ``results.json`` says of the method itself, by field."""
        return outcome(self.tasks, self.cautions)

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
        seconds = float(self.config.reply_seconds) if timeout is None else timeout
        exchange, nodes = self.connect(grid)
        with self.phase("upload"):
            Collection(exchange, self.participants, self.tasks, seconds).run(nodes)
            self.participants.require_enough()
            self._caution(max(site.manifest.images for site in self.participants.sites.values()))
            spools = [site.spool for site in self.participants.sites.values()]
            self._pool = self.tasks.pool(spools, self.participants.declined)
        with ThreadPoolExecutor(max_workers=1) as pool, self._stopping():
            with self.phase("training"):
                asked = self.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
                requests = exchange.ask_all(asked, seconds)
                # In a thread, so that sites that fail meanwhile are asked again meanwhile.
                training = pool.submit(self._train_global)
                own_work = pool.submit(beside) if beside else None
                self.collect_reports(exchange, requests, beside=training)
                arrays = training.result()
            with self.phase("sampling"):
                asked = self.configure_evaluate(1, arrays, ConfigRecord(), grid)
                self.collect_reports(exchange, exchange.ask_all(asked, seconds), True, own_work)
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

    def _train_global(self) -> ArrayRecord:
        """Train the global half; the clients train their personal ones meanwhile.

        Its weights are copied from the device here, in the thread that goes on training: no other may touch a
        GPU while that one captures its kernels.
        """
        self.train_features()
        return array_record(to_arrays(self.tasks.train_global(self._pool)))

    # -- Flower's hooks -----------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the instructions to train personal denoisers; they carry no arrays."""
        content = pack(Instruction(fingerprint=self.fingerprint))
        return messages(content, self.participants.sites, "train.personalize")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return nothing: personal denoisers never leave their clients, so there is nothing to aggregate."""
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the instructions to sample, with the global half and the metrics' feature network."""
        return self.to_sample({f"global/{name}": array.numpy() for name, array in arrays.items()})

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing: scores are kept per client, in simulation only."""
        return None
