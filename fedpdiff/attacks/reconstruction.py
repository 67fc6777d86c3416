"""Reconstruction of uploads with a diffusion model as the attacker's idea of what images look like.

An upload y = a u + b z is a diffused image at a known level, so any denoiser that knows this level is an
attack. Four ways to use one; report the least recovery score of all, because the sharp ones (DDIM, one
sample, often MAP) lose to the posterior mean in squared error even where the upload gives much away:

* :func:`tweedie`: E[u | y] in one call; no estimate has a lower squared error if the denoiser is exact;
* :func:`ddim`: the deterministic path to one sharp image (Song et al. 2021, equation 12, eta = 0);
* :func:`posterior_mean`: the mean of stochastic samples, E[u | y] again but from every level of the model;
* :func:`maximum_a_posteriori`: the most likely image.

Levels count as everywhere in the project: 1 .. T, ``alpha_bar[0] = 1``. Everything is in the frame of the
prior (:mod:`fedpdiff.attacks.model_priors` brings uploads there).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedpdiff.diffusion.sampling import Predict, reverse, spaced_levels
from fedpdiff.errors import ConfigError

_BLUR = 0.08  # noise per signal below which image detail no longer matters to the prior


@dataclass(frozen=True)
class Prior:
    """A denoiser as the attacker's prior.

    Attributes
    ----------
    predict
        Maps (x_t, t, labels) to E[u | x_t]; x_t of shape (n, C, H, W), t in 1 .. ``last``.
    alpha_bar
        float64 tensor, shape (T + 1,): share of signal at each level, ``alpha_bar[0] = 1``.
    last
        Highest level that ``predict`` knows.
    """

    predict: Predict
    alpha_bar: torch.Tensor
    last: int

    def check(self, level: int) -> None:
        """Raise ConfigError when the prior does not know ``level``."""
        if not 1 <= level <= self.last:
            raise ConfigError(f"level = {level}: this prior knows levels 1 to {self.last} only")

    def noise_to_signal(self) -> torch.Tensor:
        """Return s_t = sqrt((1 - abar_t) / abar_t), shape (T + 1,), float64."""
        return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()


@torch.no_grad()
def tweedie(prior: Prior, uploads: torch.Tensor, level: int, labels: torch.Tensor) -> torch.Tensor:
    """Return E[u | y] by one call of the denoiser.

    Parameters
    ----------
    prior
        What the attacker holds.
    uploads
        y, shape (n, C, H, W), at ``level`` of the prior.
    level
        In 1 .. ``prior.last``.
    labels
        int64, shape (n,): the disclosed classes.

    Raises
    ------
    ConfigError
        When the prior does not know ``level``.
    """
    prior.check(level)
    return prior.predict(uploads, level, labels)


@torch.no_grad()
def ddim(
    prior: Prior, uploads: torch.Tensor, level: int, labels: torch.Tensor, steps: int = 50
) -> torch.Tensor:
    """Return the image at the end of the deterministic path from the uploads; arguments as above."""
    prior.check(level)
    levels = spaced_levels(level, 0, min(steps, level))
    unused = torch.Generator()  # the path is deterministic
    return reverse(prior.predict, prior.alpha_bar, levels, uploads, labels, "ddim", unused)[0]


@torch.no_grad()
def posterior_mean(
    prior: Prior,
    uploads: torch.Tensor,
    level: int,
    labels: torch.Tensor,
    generator: torch.Generator,
    samples: int = 16,
    steps: int = 50,
) -> torch.Tensor:
    """Return the mean of ``samples`` stochastic images per upload (ancestral sampling, Ho et al. 2020).

    Its squared error is (1 + 1/samples) times that of E[u | y] for an exact denoiser and all levels visited.
    """
    prior.check(level)
    if samples < 1:
        raise ConfigError(f"samples = {samples}: must be at least 1")
    levels = spaced_levels(level, 0, min(steps, level))
    total = torch.zeros_like(uploads)
    for _ in range(samples):
        total += reverse(prior.predict, prior.alpha_bar, levels, uploads, labels, "ddpm", generator)[0]
    return total / samples


def blur_level(prior: Prior) -> int:
    """Return the lowest level with noise of 0.08 per unit of signal, where MAP evaluates the prior."""
    return int((prior.noise_to_signal()[1 : prior.last] < _BLUR).sum()) + 1


@torch.no_grad()
def maximum_a_posteriori(
    prior: Prior,
    uploads: torch.Tensor,
    level: int,
    labels: torch.Tensor,
    iterations: int = 100,
    blur: int | None = None,
) -> torch.Tensor:
    """Return argmax_u log p(y | u) + log p_blur(u) by accelerated gradient ascent.

    The density of images is known through the denoiser as that of images with a little noise, whose score at
    u is (E[u | x_blur = sqrt(abar_blur) u] - u) / s_blur^2. Neither term curves more than 1 / s^2, so that
    steps of 1 / (1/s_level^2 + 1/s_blur^2) cannot diverge; momentum as in Nesterov 1983, started afresh for
    an image as soon as it carries that one downhill (O'Donoghue & Candes 2015, section 3.2).

    Parameters
    ----------
    prior, uploads, level, labels
        As in :func:`tweedie`.
    iterations
        Calls of the denoiser.
    blur
        Level of the prior; ``None``: :func:`blur_level`. Lower is sharper and converges more slowly.

    Raises
    ------
    ConfigError
        When the prior does not know a level, or ``iterations`` is below 1.
    """
    blur = blur_level(prior) if blur is None else blur
    prior.check(level)
    prior.check(blur)
    if iterations < 1:
        raise ConfigError(f"iterations = {iterations}: must be at least 1")
    variance = (prior.noise_to_signal() ** 2).tolist()
    scale, share = float(prior.alpha_bar[level]) ** -0.5, float(prior.alpha_bar[blur]) ** 0.5
    step = 1 / (1 / variance[level] + 1 / variance[blur])
    now = ahead = prior.predict(uploads, level, labels)
    speed = torch.ones(len(uploads), 1, 1, 1, dtype=uploads.dtype, device=uploads.device)
    for _ in range(iterations):
        pull = prior.predict(share * ahead, blur, labels) - ahead
        gradient = (scale * uploads - ahead) / variance[level] + pull / variance[blur]
        new = ahead + step * gradient
        wrong = (gradient * (new - now)).flatten(1).sum(1) < 0
        speed[wrong] = 1.0
        faster = (1 + (1 + 4 * speed**2).sqrt()) / 2
        ahead = new + (speed - 1) / faster * (new - now)
        now, speed = new, faster
    return now
