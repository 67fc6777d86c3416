"""FedProx, as FedDM-prox uses it: a client pays for the distance from the weights that it received.

Published: Li et al. 2020 (arXiv 1812.06127) for the term, Vora et al. 2024 (FedDM, arXiv 2407.14730) for
diffusion models; the latter re-implemented from the abstract, its mu is not published. The loss of a step is

    L_ddpm(w) + mu / 2 |w - w_t|^2,

the distance squared and added to what is differentiated. Ours: mu = 1e-4 by default. A round moves hundreds
of thousands of weights, so |w - w_t|^2 is easily 1000; at mu = 0.01 the term outweighs the loss, and a short
training goes nowhere.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DModel

from fedpdiff.diffusion.training import Penalty
from fedpdiff.methods.base import RoundMethod


class FedProx(RoundMethod):
    """FedAvg with a proximal term in every client's loss."""

    name = "fedprox"
    title = "FedProx"
    source = "Li et al. 2020, arXiv 1812.06127; FedDM-prox, arXiv 2407.14730, from the abstract"

    def penalty(self, received: UNet2DModel) -> Penalty | None:
        """Return mu / 2 |w - w_t|^2 as a function of the network."""
        mu = self.config.proximal_mu
        if not mu:
            return None
        anchor = [parameter.detach().clone() for parameter in received.parameters()]

        def distance(network: UNet2DModel) -> torch.Tensor:
            squares = [(w - w_t).square().sum() for w, w_t in zip(network.parameters(), anchor, strict=True)]
            return 0.5 * mu * torch.stack(squares).sum()

        return distance
