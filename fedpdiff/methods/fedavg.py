"""FedAvg-DDPM: the whole network is trained by all clients in turn and averaged after every round.

Published: Tun et al. 2023 (arXiv 2311.16538), FedDM-vanilla (Vora et al. 2024, arXiv 2407.14730) and
FedDiffuse "full" (de Goede et al. 2024, arXiv 2406.12575), all of them McMahan et al. 2017 for a diffusion
model. Ours: network, schedule and number of steps are those of the common protocol, and the moving average
of the aggregates; the papers average none, or each client's own.
"""

from __future__ import annotations

from fedpdiff.methods.base import RoundMethod


class FedAvg(RoundMethod):
    """Average the clients' weights, weighted by their numbers of images, after every round."""

    name = "fedavg"
    title = "FedAvg"
    source = "Tun et al. 2023, arXiv 2311.16538; FedDM-vanilla; FedDiffuse full"
