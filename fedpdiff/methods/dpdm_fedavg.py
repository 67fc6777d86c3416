"""Federated DPDM: each client trains with differential privacy, its weights are averaged after every round.

Published: Dockhorn et al. 2023 (DPDM, TMLR): DP-SGD for diffusion models with *noise multiplicity*, K draws
of level and noise for each image of a step, whose gradients are averaged before they are clipped, so that K
costs no privacy. PFDM's paper compares with it after federated averaging (arXiv 2504.00952). Ours: the common
protocol in the place of DPDM's network, parametrisation and constant rate, and how it is federated: every
client on its own, with the noise that its own number of images, sampling rate and steps need for ``epsilon``;
averaging is post-processing. Classes are not balanced: a step sees each image equally likely, as accounting
by Poisson sampling asks for.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup

from fedpdiff.errors import ConfigError, RunError
from fedpdiff.methods.base import LocalRound, PrivateTraining, RoundMethod
from fedpdiff.privacy.dp_sgd import UNIT, StepLedger, Steps, noise_multiplier
from fedpdiff.privacy.gaussian_noise import NoiseSource, rounded_gaussian
from fedpdiff.types import to_pixels

_GRID = 2048.0  # steps of the noise's integer grid per standard deviation
_ROWS = 256  # images times copies in one backward pass: per-image gradients are large


class DPDMFedAvg(RoundMethod):
    """FedAvg of weights that were trained with DP-SGD."""

    name = "dpdm-fedavg"
    title = "DPDM + FedAvg"
    source = "Dockhorn et al. 2023, TMLR (DPDM); federated as a baseline in arXiv 2504.00952"
    server_sees = "every client's DP-SGD weights after each round, and its number of images per class"

    @property
    def guarantee(self) -> str:
        """The budget, with the unit that it holds for."""
        if self.config.release_noise == "seeded":
            return "NOT PRIVATE: the noise was seeded, so whoever knows the seed can remove it"
        return (
            f"({self.config.epsilon:g}, {self.config.delta:g})-DP of each client's weights, all rounds "
            f"together, for {UNIT}; not comparable with PFDM's epsilon, which is for replacing an image"
        )

    def plan(self, images: int) -> tuple[float, float]:
        """Return the sampling rate and the noise multiplier of a client with so many images."""
        rate = min(1.0, self.config.batch_size / images)
        return rate, noise_multiplier(self.config.epsilon, self.config.delta, rate, self.steps)

    def fit(self, local: LocalRound) -> float:
        """Take this round's DP-SGD steps, charged to the client's ledger before the first of them."""
        private = local.private
        if private is None:
            raise ConfigError("differentially private training needs the client's images and its ledger")
        rate, sigma = self.plan(len(private.images))
        StepLedger(private.ledger).charge(Steps(sigma, rate, len(local.span)), *private.limits)
        network = local.network.train()
        optimizer = self.make_optimizer(network.parameters(), local.settings.learning_rate)
        schedule = (optimizer, local.settings.warmup_steps, local.settings.steps)
        decay = get_cosine_schedule_with_warmup(*schedule)
        if local.span[0] > 1:
            decay = get_cosine_schedule_with_warmup(*schedule, last_epoch=local.span[0] - 2)
        sampled = per_image_gradients(network)
        losses = []
        try:
            for step in local.span:
                chosen = _poisson(len(private.images), rate, private.noise)
                sums, loss = self._clipped_sums(sampled, local, private, chosen)
                for parameter, total in zip(network.parameters(), sums, strict=True):
                    noise = _noise(total, sigma * self.config.dp_clip, private.noise)
                    parameter.grad = (total + noise) / self.config.batch_size
                optimizer.step()
                decay.step()
                losses += [] if loss is None else [loss]
                if local.progress is not None:
                    local.progress(step, local.settings.steps, loss)
        finally:
            sampled.to_standard_module()
        network.eval()
        if not all(torch.isfinite(parameter).all() for parameter in network.parameters()):
            raise RunError("DP-SGD diverged: weights are not finite; lower learning-rate or raise epsilon")
        return float(np.mean(losses)) if losses else 0.0

    def _clipped_sums(
        self, sampled: torch.nn.Module, local: LocalRound, private: PrivateTraining, rows: torch.Tensor
    ) -> tuple[list[torch.Tensor], float | None]:
        """Return the sum of the images' clipped gradients by parameter, and their mean loss, if any.

        Per image: the mean gradient of its K copies, scaled to an L2 norm of at most ``dp-clip``.
        """
        copies, parameters = self.config.dp_copies, list(local.network.parameters())
        sums, loss = [torch.zeros_like(parameter) for parameter in parameters], 0.0
        for part in rows.split(max(1, _ROWS // copies)) if len(rows) else ():
            losses = _losses(sampled, local, private, part, copies)
            losses.sum().backward()
            loss += float(losses.detach().mean()) * len(part) / len(rows)
            means = [p.grad_sample.view(len(part), copies, *p.shape).mean(1) for p in parameters]
            norms = torch.stack([mean.flatten(1).norm(dim=1) for mean in means]).norm(dim=0)
            factors = (self.config.dp_clip / norms.clamp_min(1e-12)).clamp_max(1.0)
            for parameter, total, mean in zip(parameters, sums, means, strict=True):
                total += torch.einsum("i,i...", factors, mean)
                parameter.grad = parameter.grad_sample = None
        return sums, loss if len(rows) else None


def per_image_gradients(network: torch.nn.Module) -> Any:
    """Return the network with ``grad_sample`` per parameter after a backward pass, shape (rows, ...).

    Opacus' rule for convolutions (1.6) gives 0 where their input is not contiguous, as behind an attention
    layer, so it is handed contiguous ones; functorch, its other way, takes twice as long on a CPU.
    """
    from opacus import GradSampleModule  # takes seconds to import
    from opacus.grad_sample.conv import compute_conv_grad_sample

    def convolution(layer: Any, activations: list[torch.Tensor], backprops: torch.Tensor) -> Any:
        contiguous = [activation.contiguous() for activation in activations]
        return compute_conv_grad_sample(layer, contiguous, backprops.contiguous())

    class Sampled(GradSampleModule):
        GRAD_SAMPLERS: ClassVar = {**GradSampleModule.GRAD_SAMPLERS, torch.nn.Conv2d: convolution}

    return Sampled(network, loss_reduction="sum")


def _losses(
    sampled: torch.nn.Module, local: LocalRound, private: PrivateTraining, rows: torch.Tensor, copies: int
) -> torch.Tensor:
    """Return the loss of every copy of every image, shape (n K,); a label is hidden for all K or none."""
    device = local.network.device
    start = to_pixels(private.images.images[rows]).repeat_interleave(copies, 0)
    hide = torch.rand(len(rows), generator=local.generator) < private.label_dropout
    labels = private.images.labels[rows].masked_fill(hide, private.hidden_label)
    t = torch.randint(local.chain.first, local.chain.last + 1, (len(start),), generator=local.generator)
    noise = torch.randn(start.shape, generator=local.generator)
    x_t = local.chain.diffuse(start, t, noise)
    labels = labels.repeat_interleave(copies)
    start, labels, noise, x_t = (tensor.to(device) for tensor in (start, labels, noise, x_t))
    output = sampled(x_t, (t - 1).to(device), class_labels=labels).sample
    return local.chain.losses(output, start, x_t, t, noise)


def _poisson(count: int, rate: float, noise: NoiseSource) -> torch.Tensor:
    """Return the rows of a step: each of ``count`` with probability ``rate``, by the noise's randomness."""
    uniform = np.frombuffer(noise.read(8 * count), np.uint64) >> np.uint64(11)
    return torch.from_numpy(np.flatnonzero(uniform < rate * 2.0**53))


def _noise(like: torch.Tensor, deviation: float, noise: NoiseSource) -> torch.Tensor:
    """Return Gaussian noise of this standard deviation, by the noise's randomness."""
    drawn = rounded_gaussian(_GRID, like.numel(), noise)
    return (torch.from_numpy(drawn).to(like) * (deviation / _GRID)).view_as(like)
