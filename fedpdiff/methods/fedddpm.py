"""FedDDPM: after every aggregation the server trains on images that the clients' own models made.

Published: Peng et al. 2025 (arXiv 2503.06426): before the federation each client uploads a well-trained local
diffusion model; the server draws auxiliary images from them, which approximate everybody's distribution, and
optimises the global model further on them after each aggregation. Re-implemented from the abstract: how many
images, how many server steps and how long the local training are not published. Ours, as settings:
``pretraining-share`` of a client's gradient steps make its local model (they count: all methods have as many
steps per client), ``auxiliary-images`` are drawn, of each client as many as its share of all images, with its
own mix of classes, and ``server-steps`` follow an aggregation.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedpdiff.methods.base import RoundMethod


class FedDDPM(RoundMethod):
    """FedAvg with local models first, and a correction on images drawn from them after every round."""

    name = "fedddpm"
    title = "FedDDPM"
    source = "Peng et al. 2025, arXiv 2503.06426, re-implemented from the abstract"
    server_sees = (
        "every client's own finished generator, from which it draws images; then its weights after each "
        "round, and its number of images per class"
    )

    @property
    def pretraining_steps(self) -> int:
        """Gradient steps of a client's local model."""
        return min(
            self.config.personal_steps - 1,
            round(self.config.pretraining_share * self.config.personal_steps),
        )

    @property
    def steps(self) -> int:
        """What is left for the rounds."""
        return self.config.personal_steps - self.pretraining_steps

    @property
    def correction_steps(self) -> int:
        """Server steps of one correction."""
        return self.config.server_steps

    def corrects(self, losses: Sequence[float]) -> bool:
        """Return whether to correct after this round: always."""
        return True


class FedDDPMPlus(FedDDPM):
    """The same, with a correction only when learning has become slow.

    Published (same paper): it "detects instances of slow model learning and performs a one-shot correction".
    Ours: learning is slow when the loss on the auxiliary images, judged after each aggregation on the same
    draws, fell by less than ``slow-learning`` of itself since the round before; one correction for each
    detection.
    """

    name = "fedddpm+"
    title = "FedDDPM+"

    def corrects(self, losses: Sequence[float]) -> bool:
        """Return whether the last of the losses after each round is not clearly below the one before."""
        if len(losses) < 2:
            return False
        before, now = losses[-2:]
        return before - now < self.config.slow_learning * before
