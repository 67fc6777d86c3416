"""Training of a denoiser: the same loop for the personal, the global and the centralised network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from fedpdiff.diffusion.batches import Batches
from fedpdiff.diffusion.chain import Chain
from fedpdiff.diffusion.checkpoint import load_checkpoint, save_checkpoint
from fedpdiff.diffusion.cuda_graphs import Evaluate, Evaluated, captured, worth_capturing
from fedpdiff.diffusion.linear_gaussian import LinearGaussian
from fedpdiff.diffusion.team import ALONE, Team
from fedpdiff.errors import RunError

REPORTS = 50
"""How often a training reports its loss; each report costs one synchronisation with the device."""

Progress = Callable[[int, int, float | None], None]
Penalty = Callable[[UNet2DModel], torch.Tensor]
MakeOptimizer = Callable[[Iterable[torch.nn.Parameter], float], torch.optim.Optimizer]


@dataclass(frozen=True)
class TrainingSettings:
    """Optimisation settings, shared by all networks of a run.

    Attributes
    ----------
    steps, batch_size
        Gradient steps, images per step.
    learning_rate, warmup_steps
        AdamW's peak rate; it rises linearly over the warm-up and falls to 0 along a cosine.
    ema_decay
        Decay of the exponential moving average of the weights, which is what sampling uses; 0: none, the
        weights of the last step stay.
    gradient_clip
        Largest gradient norm.
    bfloat16
        Run the network under bfloat16 autocast (weights stay float32).
    checkpoint_every
        Steps between checkpoints; 0: none.
    compiled
        On a GPU: compile the network first. Dropout then has draws of its own; without dropout the weights
        are the same up to rounding. A checkpoint goes on with or without.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    ema_decay: float
    gradient_clip: float
    bfloat16: bool = False
    checkpoint_every: int = 0
    compiled: bool = field(default=False, repr=False)  # a checkpoint's identity is made of the rest

    def checkpoint_after(self, step: int) -> bool:
        """Return whether a checkpoint follows this step, counted from 1; one always follows the last."""
        every = self.checkpoint_every
        return every > 0 and (step % every == 0 or step == self.steps)


def adamw(parameters: Iterable[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Return the optimiser of every training: AdamW without weight decay."""
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=True)


def train_denoiser(
    network: UNet2DModel,
    chain: Chain,
    batches: Batches,
    settings: TrainingSettings,
    generator: torch.Generator,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    span: range | None = None,
    penalty: Penalty | None = None,
    make_optimizer: MakeOptimizer = adamw,
    base: LinearGaussian | None = None,
    team: Team = ALONE,
) -> UNet2DModel:
    """Train ``network`` in place and return it with its averaged (EMA) weights, in evaluation mode.

    Parameters
    ----------
    batches
        Draws start images (the chain's y) and conditions.
    generator
        CPU generator that draws images, levels and noise, and whose seed decides dropout; its state is part
        of a checkpoint, so a resumed training gives the weights of one that was never interrupted.
    progress
        Called with (step, steps, mean loss since the last report).
    checkpoint
        File to write every ``settings.checkpoint_every`` steps and after the last, and to resume from when it
        exists and is of the same training: settings, chain, seed and images. What is finished is only read.
    span
        The consecutive steps of 1 .. ``settings.steps`` that this call takes; default all. The learning rate
        goes on where the step before left it; the optimiser starts afresh.
    penalty
        Maps the network to a scalar that is added to every step's loss.
    make_optimizer
        Makes the optimiser of (parameters, learning rate). Parameters that need no gradient stay as they are.
    base
        What the network's output is added to; it is not trained.
    team
        The processes that train this network together; all call this with the same arguments.

    Raises
    ------
    DataError
        When the checkpoint is broken.
    RunError
        When a checkpoint cannot be written, the loss is no longer finite, or the network cannot be compiled.
    """
    device = network.device
    span = range(1, settings.steps + 1) if span is None else span
    evaluated = Evaluated(team.shared(network.train()), settings.bfloat16)
    optimizer = make_optimizer((p for p in network.parameters() if p.requires_grad), settings.learning_rate)
    average = EMAModel(
        network.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True
    )
    rate = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.steps)
    done, seed = span[0] - 1, generator.initial_seed()
    identity = _identity(chain, batches, settings, generator, base)
    if checkpoint is not None and checkpoint.exists():
        done = max(done, load_checkpoint(checkpoint, identity, network, optimizer, average, generator))
    if done:
        rate = get_cosine_schedule_with_warmup(
            optimizer, settings.warmup_steps, settings.steps, last_epoch=done - 1
        )
    losses: list[torch.Tensor] = []
    every = max(1, settings.steps // REPORTS)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        evaluate: Evaluate = evaluated
        if team.size == 1 and done < span[-1] and worth_capturing(network, len(span)):
            images, _ = batches.draw(settings.batch_size, torch.Generator().manual_seed(0))
            evaluate = captured(evaluated, images.to(device), settings.compiled)
        for step in range(done + 1, span[-1] + 1):
            # Dropout draws from torch's own stream: the same after a resume, another one in each process.
            torch.manual_seed(seed + step + team.number * settings.steps)
            loss = _loss(evaluate, device, chain, batches, settings, generator, base, team)
            if penalty is not None:
                loss = loss + penalty(network)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip, foreach=True)
            optimizer.step()
            rate.step()
            average.step(network.parameters())
            losses.append(loss.detach())
            if step % every == 0 or step == span[-1]:
                _report(losses, step, settings.steps, progress, team)
            if checkpoint is not None and team.leads and settings.checkpoint_after(step):
                save_checkpoint(checkpoint, identity, step, network, optimizer, average, generator)
    if settings.ema_decay:
        average.copy_to(network.parameters())
    network.zero_grad(set_to_none=True)  # they lie in the memory of a capture
    return network.eval()


def _loss(
    evaluate: Evaluate,
    device: torch.device,
    chain: Chain,
    batches: Batches,
    settings: TrainingSettings,
    generator: torch.Generator,
    base: LinearGaussian | None,
    team: Team,
) -> torch.Tensor:
    """Draw a batch, levels and noise, and return the loss of this process's part."""
    start, condition = batches.draw(settings.batch_size, generator)
    t = torch.randint(chain.first, chain.last + 1, (len(start),), generator=generator)
    noise = torch.randn(start.shape, generator=generator)
    start, condition, t, noise = (team.part(whole) for whole in (start, condition, t, noise))
    start, condition, noise = (x.to(device, non_blocking=True) for x in (start, condition, noise))
    x_t = chain.diffuse(start, t, noise)
    output = evaluate(x_t, (t - 1).to(device), condition)
    if base is not None:
        output = output + base(x_t, chain.alpha_bar[t], condition)
    return chain.losses(output, start, x_t, t, noise).mean()


def _identity(
    chain: Chain,
    batches: Batches,
    settings: TrainingSettings,
    generator: torch.Generator,
    base: LinearGaussian | None,
) -> str:
    """Return a hash of all that decides the weights; a batch drawn apart stands for the images."""
    digest = hashlib.sha256(
        repr((settings, chain.kind, chain.objective, chain.start, chain.first, chain.last)).encode()
    )
    digest.update(f"seed {generator.initial_seed()}".encode())
    images, labels = batches.draw(settings.batch_size, torch.Generator().manual_seed(0))
    for tensor in (chain.alpha_bar, images, labels, *(base.buffers() if base is not None else ())):
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _report(losses: list[torch.Tensor], step: int, steps: int, progress: Progress | None, team: Team) -> None:
    loss = team.mean(torch.stack(losses).mean()).item()
    losses.clear()
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise RunError(
            f"training diverged: the loss is {loss} at step {step} of {steps}; lower learning-rate or raise "
            f"warmup-steps"
        )
    if progress is not None:
        progress(step, steps, loss)
