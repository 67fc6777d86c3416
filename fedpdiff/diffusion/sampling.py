"""Two-stage sampling: the global half from pure noise down to the hand-off, the personal half from there.

Any of diffusers' schedulers takes the steps. A scheduler is built on just the levels that are visited (a
respaced chain), so that each stage takes its own number of steps and the hand-off falls exactly on its level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor

from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.errors import ConfigError

SAMPLERS: dict[str, tuple[type, dict[str, Any]]] = {
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
}

Predict = Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]


class TwoStageSamples(NamedTuple):
    """Pixels in [-1, 1], shape (N, C, H, W): the samples, and what the first stage alone makes of them."""

    images: torch.Tensor
    global_view: torch.Tensor


def spaced_levels(high: int, low: int, steps: int) -> list[int]:
    """Return ``steps`` levels from ``high`` down, all above ``low``.

    They are evenly spaced where the chain goes on below ``low``. Where it ends at the image (``low = 0``)
    their distance shrinks with the level: the last step returns a posterior mean, which has lost the detail
    that is finer than the noise of the level it starts from.

    Raises
    ------
    ConfigError
        When there are fewer than ``steps`` levels in between, or ``steps`` is below 1.
    """
    if not 1 <= steps <= high - low:
        raise ConfigError(
            f"{steps} sampling steps between levels {high} and {low}: must be between 1 and {high - low}"
        )
    if low > 0:
        return [round(level) for level in np.linspace(high, low, steps + 1)[:-1].tolist()]
    return [max(i, round(high * (i / steps) ** 2)) for i in range(steps, 0, -1)]


def _respaced_scheduler(sampler: str, alpha_bar: torch.Tensor, levels: list[int]) -> Any:
    """Build the scheduler of a chain that visits only ``levels`` (descending)."""
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler = {sampler!r}: must be one of {', '.join(SAMPLERS)}")
    scheduler_class, settings = SAMPLERS[sampler]
    visited = alpha_bar[levels[::-1]].double().cpu().numpy()
    betas = 1 - visited / np.concatenate([[1.0], visited[:-1]])
    scheduler = scheduler_class(
        num_train_timesteps=len(levels), trained_betas=betas.tolist(), prediction_type="sample", **settings
    )
    # The scheduler's own value passes through a single-precision beta, which a large step rounds to 1.
    scheduler.alphas_cumprod = torch.from_numpy(visited)
    if sampler == "ddim":
        scheduler.set_timesteps(len(levels))
    else:
        scheduler.set_timesteps(timesteps=list(range(len(levels)))[::-1])
    return scheduler


def reverse(
    predict: Predict,
    alpha_bar: torch.Tensor,
    levels: list[int],
    x: torch.Tensor,
    labels: torch.Tensor,
    sampler: str,
    generator: torch.Generator,
    stop: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the reverse process over ``levels`` and on to level ``stop``.

    Parameters
    ----------
    predict
        Maps (x_t, t, labels) to the expected clean image.
    alpha_bar
        float64, shape (T + 1,): the chain's signal, that of the image which ``predict`` returns.
    levels
        Descending levels at which the network is evaluated; ``x`` is at the first of them.
    stop
        The level at which to end; 0 is the clean image.

    Returns
    -------
    tuple
        x at level ``stop``, and the last prediction.
    """
    scheduler = _respaced_scheduler(sampler, alpha_bar, levels if stop == 0 else [*levels, stop])
    prediction = x
    for step, level in enumerate(levels):
        prediction = predict(x, level, labels)
        extra = {} if sampler == "dpm-solver++" else {"generator": generator}
        x = scheduler.step(prediction, scheduler.timesteps[step], x, **extra).prev_sample
    return x, prediction


def sample_whole_chain(
    personal: Denoiser, labels: torch.Tensor, sampler: str, steps: int, generator: torch.Generator
) -> torch.Tensor:
    """Sample with one denoiser of clean images from level T down (local-only, centralised).

    Returns
    -------
    torch.Tensor
        float32 pixels in [-1, 1], shape (N, C, H, W).
    """
    top = personal.config.diffusion_steps
    return refine(personal, _noise(personal, len(labels), generator), top, labels, sampler, steps, generator)


def refine(
    personal: Denoiser,
    x_t: torch.Tensor,
    t: int,
    labels: torch.Tensor,
    sampler: str,
    steps: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Run the personal half from level ``t`` (pixels, shape (N, C, H, W)) down to the image."""
    levels = spaced_levels(t, 0, min(steps, t))
    images, _ = reverse(personal.guided, personal.chain.alpha_bar, levels, x_t, labels, sampler, generator)
    return images.clamp(-1.0, 1.0)


def sample_two_stage(
    global_half: Denoiser,
    personal: Denoiser,
    labels: torch.Tensor,
    sampler: str,
    global_steps: int,
    personal_steps: int,
    generator: torch.Generator,
) -> TwoStageSamples:
    """Sample as PFDM does (arXiv 2504.00952, section 4): global half down to the hand-off, personal half on.

    Parameters
    ----------
    global_half, personal
        As :func:`~fedpdiff.diffusion.joining.join` returns them, for a client with moments of its own.
    labels
        int64, shape (N,): the classes to sample.
    global_steps, personal_steps
        Steps of each stage: one evaluation of a network each, two where it is guided.
    """
    x, view = hand_off(global_half, labels, sampler, global_steps, generator)
    level = global_half.config.hand_off
    return TwoStageSamples(refine(personal, x, level, labels, sampler, personal_steps, generator), view)


def hand_off(
    global_half: Denoiser, labels: torch.Tensor, sampler: str, steps: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the global half; return x at the hand-off level and its own estimate of the image, in pixels."""
    level, top = global_half.config.hand_off, global_half.config.diffusion_steps
    chain = global_half.chain
    x = _noise(global_half, len(labels), generator)
    if chain.kind == "continued":
        levels = spaced_levels(top, level, min(steps, top - level))
        return reverse(global_half.guided, chain.alpha_bar, levels, x, labels, sampler, generator, stop=level)
    # Nested: a whole chain over the uploads as if they were clean images; its result is at level t0.
    levels = spaced_levels(top, 0, min(steps, top))
    upload, _ = reverse(global_half.start, chain.ratio, levels, x, labels, sampler, generator)
    centre = global_half.centre.to(upload)
    # Seen from a level where half of the upload's signal is left: at lower ones an estimate through the
    # predicted noise divides by almost nothing.
    level = int((chain.ratio > 0.5).sum())
    noise = randn_tensor(upload.shape, generator=generator, device=upload.device)
    x_t = chain.diffuse(upload, torch.full((len(upload),), level), noise)
    view = (global_half.clean_clipped(x_t, level, labels) + centre).clamp(-1.0, 1.0)
    return upload + chain.start**0.5 * centre, view


def _noise(denoiser: Denoiser, count: int, generator: torch.Generator) -> torch.Tensor:
    shape = (count, *denoiser.config.image_shape)
    return randn_tensor(shape, generator=generator, device=denoiser.device)
