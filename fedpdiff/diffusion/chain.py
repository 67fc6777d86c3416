r"""The levels a denoiser works on, and what its network learns there.

Notation (PFDM, arXiv 2504.00952; Ho et al. 2020): a denoiser is trained on *start* images y that already
carry ``abar_s`` of the signal: clean images (``abar_s = 1``) for the personal half, uploads
(``abar_s = abar_t0``) for the global half. Diffusing y on to level t gives

    x_t = sqrt(r_t) y + sqrt(1 - r_t) e,    r_t = abar_t / abar_s,    e ~ N(0, I),

which holds the clean image u with total signal ``abar_t``. Three chains differ in their levels:

=============  ==========  =====================  ==================================================
chain          abar_s      abar_t                 levels
=============  ==========  =====================  ==================================================
``personal``   1           schedule               1 .. T, or 1 .. t0
``continued``  abar_t0     schedule               t0 + 1 .. T: one chain, split at t0
``nested``     abar_t0     schedule x abar_t0     1 .. T: the paper's, uploads taken as clean images
=============  ==========  =====================  ==================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from fedpdiff.errors import ConfigError
from fedpdiff.schedule import NoiseSchedule

ChainKind = Literal["personal", "continued", "nested"]
Objective = Literal["noise", "velocity", "ambient"]


@dataclass(frozen=True)
class Chain:
    """The diffusion process of one denoiser.

    Attributes
    ----------
    kind, objective
        See the module's table; ``"ambient"`` is for the two global chains only, ``"velocity"`` for the
        personal one.
    start
        abar_s, the share of signal (variance) in the images it is trained on.
    alpha_bar
        float64 tensor of shape (T + 1,): total signal of the clean image at each level.
    first, last
        Lowest and highest level that is trained (inclusive).
    """

    kind: ChainKind
    objective: Objective
    start: float
    alpha_bar: torch.Tensor
    first: int
    last: int

    @property
    def ratio(self) -> torch.Tensor:
        """r_t = abar_t / abar_s, shape (T + 1,), float64."""
        return self.alpha_bar / self.start

    def diffuse(self, start: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return x_t = sqrt(r_t) y + sqrt(1 - r_t) e (Ho et al. 2020, eq. 4), levels ``t`` of shape (N,)."""
        ratio = _per_image(self.ratio[t.cpu()], start)
        return ratio.sqrt() * start + (1 - ratio).sqrt() * noise

    def losses(
        self,
        output: torch.Tensor,
        start: torch.Tensor,
        x_t: torch.Tensor,
        t: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Return the training loss of each image, shape (N,).

        ``noise``: the mean of (e - output)^2 (Ho et al. 2020, eq. 14).

        ``velocity``: the mean of (v - output)^2 with v = sqrt(r_t) e - sqrt(1 - r_t) y (Salimans and Ho 2022,
        section 4). Where nearly all is noise, predicting the noise says little about the image; v is the
        image there, so a short training already decides what is drawn.

        ``ambient``: output is h, meant to become E[u | x_t]. Given u and x_t, y is Gaussian with mean
        k1 x_t + k2 u and variance v (the forward process's posterior, Ho et al. 2020, eq. 6-7, with s < t in
        the place of t - 1), so the mean of (y - k1 x_t - k2 h)^2 / v is least at h = E[u | x_t] although no
        clean image is ever seen.
        """
        if self.objective == "noise":
            errors = output - noise
        elif self.objective == "velocity":
            ratio = _per_image(self.ratio[t.cpu()], start)
            errors = output - (ratio.sqrt() * noise - (1 - ratio).sqrt() * start)
        else:
            k1, k2, variance = (_per_image(c, start) for c in self.posterior(t))
            errors = (start - k1 * x_t - k2 * output) / variance.sqrt()
        return errors.square().flatten(1).mean(1)

    def posterior(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return k1, k2 and v of y | x_t, u ~ N(k1 x_t + k2 u, v I), each float64 of shape (N,).

        With r = abar_t / abar_s: k1 = sqrt(r) (1 - abar_s) / (1 - abar_t), k2 = sqrt(abar_s) (1 - r) /
        (1 - abar_t), v = (1 - abar_s) (1 - r) / (1 - abar_t) (Ho et al. 2020, eq. 7).
        """
        abar, ratio = self.alpha_bar[t.cpu()], self.ratio[t.cpu()]
        k1 = ratio.sqrt() * (1 - self.start) / (1 - abar)
        k2 = math.sqrt(self.start) * (1 - ratio) / (1 - abar)
        return k1, k2, (1 - self.start) * (1 - ratio) / (1 - abar)

    def clean_from_output(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the network's estimate of E[u | x_t], the clean image.

        From predicted noise it follows by Tweedie's formula: the score of x_t is -E[e | x_t] / sqrt(1 - r_t),
        and E[u | x_t] = (x_t + (1 - abar_t) score) / sqrt(abar_t). A predicted velocity is put in its place.
        """
        if self.objective == "ambient":
            return output
        abar, ratio = (_per_image(c[t.cpu()], x_t) for c in (self.alpha_bar, self.ratio))
        if self.objective == "velocity":
            return abar.sqrt() * x_t - (1 - abar) / ((1 - ratio) * self.start).sqrt() * output
        return (x_t - (1 - abar) / (1 - ratio).sqrt() * output) / abar.sqrt()

    def noise_from_output(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the network's estimate of E[e | x_t], the noise between the start image and x_t."""
        if self.objective == "noise":
            return output
        ratio = _per_image(self.ratio[t.cpu()], x_t)
        if self.objective == "velocity":
            return ratio.sqrt() * output + (1 - ratio).sqrt() * x_t
        rest = _per_image(1 - self.ratio[t.cpu()], x_t)  # subtracted in double precision: r is close to 1
        return (x_t - ratio.sqrt() * self.start_from_output(output, x_t, t)) / rest.sqrt()

    def start_from_output(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the network's estimate of E[y | x_t], the start image (what the nested sampler makes)."""
        if self.objective == "ambient":
            k1, k2, _ = (_per_image(c, x_t) for c in self.posterior(t))
            return k1 * x_t + k2 * output
        ratio = _per_image(self.ratio[t.cpu()], x_t)
        if self.objective == "velocity":
            return ratio.sqrt() * x_t - (1 - ratio).sqrt() * output
        return (x_t - (1 - ratio).sqrt() * output) / ratio.sqrt()


def personal_chain(
    schedule: NoiseSchedule, last: int | None = None, objective: Objective = "velocity"
) -> Chain:
    """Return the chain of a denoiser trained on clean images, on levels 1 .. ``last`` (default T)."""
    alpha_bar = torch.from_numpy(schedule.alpha_bar)
    return Chain("personal", objective, 1.0, alpha_bar, 1, schedule.steps if last is None else last)


def global_chain(
    schedule: NoiseSchedule, t0: int, kind: Literal["continued", "nested"], objective: Objective
) -> Chain:
    """Return the chain of the denoiser trained on uploads of level ``t0``.

    Raises
    ------
    ConfigError
        When a continued chain has no level left above t0.
    """
    alpha_bar = torch.from_numpy(schedule.alpha_bar)
    start = float(alpha_bar[t0])
    if kind == "nested":
        return Chain(kind, objective, start, alpha_bar * start, 1, schedule.steps)
    if t0 >= schedule.steps:
        raise ConfigError(
            f"t0 = {t0}: chain = 'continued' needs levels above t0, so t0 must be below diffusion-steps = "
            f"{schedule.steps}; choose a larger epsilon, a smaller clip or more diffusion-steps"
        )
    return Chain(kind, objective, start, alpha_bar, t0 + 1, schedule.steps)


def _per_image(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shape (N,) coefficients to (N, 1, 1, 1) in the dtype and on the device of ``like``."""
    return values.to(device=like.device, dtype=like.dtype).view(-1, 1, 1, 1)
