"""What only a simulation can compute, as it holds all images: the centralised bound and the real floor."""

from __future__ import annotations

import logging
from typing import Any

from fedpdiff.federation.server import ServerTasks
from fedpdiff.types import LabelledImages
from server_app.federation import Federation

log = logging.getLogger("flwr")


class Bounds:
    """The bounds of one run.

    Parameters
    ----------
    strategy
        The running strategy; knows whether the clients are simulated.
    tasks
        The server's computations.

    Attributes
    ----------
    centralised
        Samples of a network trained on all clean images; None in deployment or when switched off.
    real
        Real training images; None in deployment.
    """

    def __init__(self, strategy: Federation[Any], tasks: ServerTasks) -> None:
        self._strategy = strategy
        self._tasks = tasks
        self.centralised: LabelledImages | None = None
        self.real: LabelledImages | None = None

    def compute(self) -> None:
        """Compute the bounds if this is a simulation; say so if it is not."""
        if not self._strategy.participants.simulated:
            log.info(
                "Real clients take part: no centralised bound and no oracle hand-off, they need all images."
            )
            return
        self.real = self._tasks.real_floor()
        config = self._tasks.config  # other methods are compared with it over runs
        if config.centralised and config.method in ("pfdm", "centralised"):
            self.centralised = self._tasks.centralised()
