"""Local-only: every client trains alone. The lower bound that any collaboration must beat.

With ``class-balance = 1``, the default, classes are drawn equally often, which makes the strongest local
model; ``class-balance = 0`` draws images equally often, as PFDM's paper does (arXiv 2504.00952).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fedpdiff.methods.base import LocalRound, RoundMethod
from fedpdiff.methods.parts import PARTS, Parts


class LocalOnly(RoundMethod):
    """One round in which nothing is exchanged."""

    name = "local-only"
    title = "local-only"
    source = "PFDM's non-collaborative baseline, arXiv 2504.00952, with balanced classes by default"
    server_sees = "each client's number of images per class"
    privacy = "nothing computed from images leaves a client"

    @property
    def column(self) -> str:
        """As PFDM's runs call it."""
        return "local"

    @property
    def rounds(self) -> int:
        """One, of all steps."""
        return 1

    @property
    def exchanged(self) -> Parts:
        """Nothing."""
        return frozenset()

    def assign(self, clients: int, generator: np.random.Generator) -> list[Parts]:
        """Every client trains its whole network."""
        return [PARTS] * clients

    def fit(self, local: LocalRound) -> float:
        """Train with the moving average at every step, as PFDM's personal denoiser is."""
        settings = dataclasses.replace(local.settings, ema_decay=self.config.ema_decay)
        return super().fit(dataclasses.replace(local, settings=settings))
