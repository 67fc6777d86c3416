"""From a trained denoiser to an attack: which levels it knows, and in which frame an upload enters it.

Three attackers: one with a denoiser of similar public images, one with another client's personal half (the
realistic insider), both here as a *denoiser of clean images*; and one with the global half, which knows
nothing below the level of the uploads and gives its view of an upload in one step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fedpdiff.attacks.reconstruction import Prior
from fedpdiff.attacks.uploads import signal_and_noise
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.errors import ConfigError


def clean_image_prior(denoiser: Denoiser) -> Prior:
    """Return a personal (or public pre-trained) denoiser as a prior over pixels in [-1, 1].

    Raises
    ------
    ConfigError
        When the denoiser was trained on uploads: it knows no level below theirs.
    """
    if denoiser.config.kind != "personal":
        raise ConfigError(
            f"a denoiser of kind {denoiser.config.kind!r} knows no clean images; use global_view for it"
        )
    return Prior(denoiser.clean, denoiser.chain.alpha_bar, denoiser.config.last)


@dataclass(frozen=True)
class Entry:
    """How uploads of clipped images enter a prior over pixels.

    Clipping multiplies x - c by k = min(1, C / |x - c|), which the attacker knows about for typical images.
    Then y / (a k) + c = x + (s / k) z: an image in pixels with noise of a *higher* level than t0.

    Attributes
    ----------
    level
        The prior's level with the noise nearest to s / k.
    shrink
        k.
    centre
        c, float, broadcastable to one image.
    """

    level: int
    shrink: float
    centre: torch.Tensor
    _into: float
    _share: float

    def enter(self, uploads: torch.Tensor) -> torch.Tensor:
        """Return the uploads in pixels at :attr:`level`, shape (n, C, H, W)."""
        return self._into * uploads + self._share * self.centre.to(uploads)

    def leave(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return estimates of pixels as estimates of the clipped, centred image u."""
        return self.shrink * (pixels - self.centre.to(pixels))


def entry(prior: Prior, alpha_bar: float, shrink: float, centre: torch.Tensor) -> Entry:
    """Find where uploads enter a prior over pixels.

    Parameters
    ----------
    prior
        Over pixels (:func:`clean_image_prior`).
    alpha_bar
        Share of signal in the uploads, in (0, 1).
    shrink
        Typical k of public images (:func:`typical_shrink`), in (0, 1]. It is raised where the prior does not
        know as much noise as it asks for.
    centre
        Public centre c of the clipping ball.

    Raises
    ------
    ConfigError
        When ``shrink`` is out of range, or the prior does not even know the level of the uploads.
    """
    if not 0 < shrink <= 1:
        raise ConfigError(f"shrink = {shrink!r}: must be in (0, 1], what clipping leaves of typical images")
    a, b = signal_and_noise(alpha_bar)
    ratio = prior.noise_to_signal()[1 : prior.last + 1]
    if b / a > float(ratio[-1]) * (1 + 1e-6):
        raise ConfigError(
            f"this prior knows {float(ratio[-1]):.3g} of noise per unit of signal at most, but the uploads "
            f"have {b / a:.3g}"
        )
    shrink = max(shrink, min(1.0, b / a / float(ratio[-1])))
    level = int((ratio.log() - math.log(b / a / shrink)).abs().argmin()) + 1
    share = math.sqrt(float(prior.alpha_bar[level]))
    return Entry(level, shrink, centre, share / (a * shrink), share)


def typical_shrink(images: torch.Tensor, centre: torch.Tensor, radius: float) -> float:
    """Return the median k = min(1, C / |x - c|) of public images x, shape (n, C, H, W), pixels."""
    norm = (images - centre.to(images)).flatten(1).norm(dim=1)
    return float((radius / norm.clamp_min(1e-12)).clamp_max(1.0).median())


def global_levels(denoiser: Denoiser) -> int:
    """Return the lowest level at which the global half sees an upload well.

    A continued half starts one step above t0. For a nested one an upload is an image without noise, where an
    estimate through the predicted noise divides by almost nothing; it looks from where half the upload is
    left.
    """
    if denoiser.config.kind == "personal":
        raise ConfigError("a personal denoiser is not the global half; use clean_image_prior for it")
    if denoiser.chain.kind == "nested" and denoiser.chain.objective == "noise":
        return int((denoiser.chain.ratio > 0.5).sum())
    return denoiser.chain.first


@torch.no_grad()
def global_view(
    denoiser: Denoiser,
    uploads: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator,
    draws: int = 4,
    level: int | None = None,
) -> torch.Tensor:
    """Return the global half's estimate of the clipped image u behind each upload.

    Parameters
    ----------
    denoiser
        The global half (continued or nested).
    uploads
        y = a u + b z, shape (n, C, H, W).
    labels
        int64, shape (n,).
    generator
        Draws the noise that brings an upload up to ``level``.
    draws
        Estimates that are averaged, each with fresh noise.
    level
        In 1 .. T; ``None``: :func:`global_levels`.

    Raises
    ------
    ConfigError
        When the denoiser is a personal one, does not know ``level``, or ``draws`` is below 1.
    """
    level = global_levels(denoiser) if level is None else level
    chain = denoiser.chain
    if not chain.first <= level <= chain.last or chain.kind == "personal" or draws < 1:
        raise ConfigError(
            f"level = {level}, draws = {draws}: this {chain.kind} denoiser knows levels {chain.first} to "
            f"{chain.last} and needs at least one draw"
        )
    levels = torch.full((len(uploads),), level)
    total = torch.zeros_like(uploads)
    for _ in range(draws):
        noise = torch.randn(uploads.shape, generator=generator, dtype=uploads.dtype).to(uploads.device)
        total += denoiser.clean_clipped(chain.diffuse(uploads, levels, noise), level, labels)
    return total / draws
