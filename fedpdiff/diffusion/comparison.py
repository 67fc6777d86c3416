"""Which half knows images better on the levels above the hand-off: what sampling hands over for."""

from __future__ import annotations

import torch

from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.types import LabelledImages

LEVELS = 16


@torch.no_grad()
def extra_divergence(
    global_half: Denoiser, personal: Denoiser, images: LabelledImages, generator: torch.Generator
) -> float:
    r"""Return how much more the global half loses on the levels above the hand-off than the personal one.

    A denoiser that estimates x by f(x_t, t) on levels a to b adds

        1/2 \int E ||x - f(x_t, t)||^2 dSNR,    SNR = abar_t / (1 - abar_t),

    to the divergence of its samples from the images x, up to what every denoiser adds (Kingma et al. 2021,
    arXiv 2107.00630, the loss in continuous time). Both halves see the same noise, at ``LEVELS`` levels of
    equal distance (trapezoids between them).

    Parameters
    ----------
    global_half, personal
        Halves of one run, with a continued chain.
    images
        At least one; images that the personal half was trained on flatter it.
    generator
        CPU generator of the noise.

    Returns
    -------
    float
        Nats per image; above 0 where the personal half is the better one.
    """
    pixels, labels = images.pixels().to(personal.device), images.labels.to(personal.device)
    # The hand-off itself is the personal half's.
    top, bottom = global_half.config.diffusion_steps, global_half.config.hand_off + 1
    levels = torch.linspace(bottom, top, LEVELS).round().int().tolist()
    errors, ratios = [], []
    for level in levels:
        signal = float(personal.chain.alpha_bar[level])
        noise = torch.randn(pixels.shape, generator=generator).to(pixels)
        x_t = signal**0.5 * pixels + (1 - signal) ** 0.5 * noise
        lost = [(half.clean(x_t, level, labels) - pixels).square().sum() for half in (global_half, personal)]
        errors.append(float(lost[0] - lost[1]) / len(pixels))
        ratios.append(signal / (1 - signal))
    trapezoids = torch.trapezoid(torch.tensor(errors), torch.tensor(ratios))  # ratios fall with the level
    return -float(trapezoids) / 2
