r"""Was a known image in a denoiser's training set? Five published attacks, adapted to our chains.

Each attack measures how well the denoiser predicts noise around one image; a network does so better where it
was trained, so scores are LOWER for members. The attacker holds the model, the image, its label and the
public settings.

An attack starts from x, what the denoiser takes for noise-free, and diffuses it by the chain's own
coefficients, r_t = abar_t / abar_s (:mod:`fedpdiff.diffusion.chain`):

    x_t = sqrt(r_t) x + sqrt(1 - r_t) e.

For a model of clean images x is the image and r_t = abar_t: the attack as published. A global half was
trained on uploads of level t0, so x = sqrt(abar_t0) u with u the clipped, centred image, and the chain begins
above t0; asked at level 0 it would only be out of its domain.

Levels t count from 0 here, as in the papers' code: t is level t + 1 of our chains.

Sources: PIA and PIAN, Kong et al. 2024 (ICLR); SecMI_stat, Duan et al. 2023 (ICML); loss threshold,
Matsumoto et al. 2023 and Carlini et al. 2023; SimA, Rao et al. 2025.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fedpdiff.diffusion.chain import Chain
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.errors import ConfigError

NoisePredictor = Callable[[torch.Tensor, int], torch.Tensor]
"""Maps x_t, shape (N, C, H, W), and t (from 0) to the estimated noise e, of the shape of x_t."""


class Setting(NamedTuple):
    """What an attack leaves open: the level, counted from 0, and the power of the norm."""

    t: int
    power: float


Scores = dict[Setting, torch.Tensor]
"""For each setting one score per image, float64 of shape (N,), lower for members."""


@dataclass(frozen=True)
class Levels:
    """The levels of an attacked model, counted from 0.

    Attributes
    ----------
    ratio
        float64, shape (T,): r_t, the share of x in x_t.
    first, last
        Lowest and highest level that the model was trained on.
    """

    ratio: torch.Tensor
    first: int
    last: int

    @classmethod
    def of(cls, chain: Chain) -> Levels:
        """Return the levels relative to the start images that the chain's denoiser was trained on."""
        return cls(chain.ratio[1:], chain.first - 1, chain.last - 1)

    @classmethod
    def of_clean_images(cls, chain: Chain) -> Levels:
        """Return the same levels relative to the clean images: r_t = abar_t, noise of t0 included."""
        return cls(chain.alpha_bar[1:], chain.first - 1, chain.last - 1)

    def check(self, ts: Sequence[int]) -> None:
        """Refuse levels that the model never learnt.

        Raises
        ------
        ConfigError
            Naming the first of them.
        """
        for t in ts:
            if not self.first <= t <= self.last:
                raise ConfigError(
                    f"level t = {t} of the attack: must be between {self.first} and {self.last}, the levels "
                    "that the attacked model was trained on"
                )

    def diffuse(self, x: torch.Tensor, t: int, noise: torch.Tensor) -> torch.Tensor:
        """Return x_t = sqrt(r_t) x + sqrt(1 - r_t) e."""
        ratio = float(self.ratio[t])
        return math.sqrt(ratio) * x + math.sqrt(1 - ratio) * noise

    def move(self, predict: NoisePredictor, x_t: torch.Tensor, t: int, to: int) -> torch.Tensor:
        """Return one deterministic DDIM step from level ``t`` to level ``to``, in either direction."""
        noise, ratio = predict(x_t, t), float(self.ratio[t])
        start = (x_t - math.sqrt(1 - ratio) * noise) / math.sqrt(ratio)
        return self.diffuse(start, to, noise)


def start_noise_predictor(denoiser: Denoiser, labels: torch.Tensor) -> NoisePredictor:
    """Return the noise between start image and x_t, as this denoiser sees it, for images of these labels.

    Goes with :meth:`Levels.of`; ``labels``: int64, shape (N,), the classes of the attacked images.
    """
    return lambda x_t, t: denoiser.noise(x_t, t + 1, labels)


def clean_noise_predictor(denoiser: Denoiser, labels: torch.Tensor) -> NoisePredictor:
    """Return the noise between clean image and x_t, that of the upload included.

    Goes with :meth:`Levels.of_clean_images`. For a personal denoiser it is the same as
    :func:`start_noise_predictor`, but for what its base says above the hand-off; a global half is asked where
    it was trained, on images that carry all the noise of their level.
    """

    def predict(x_t: torch.Tensor, t: int) -> torch.Tensor:
        share = float(denoiser.chain.alpha_bar[t + 1])
        clean = denoiser.clean_clipped(x_t, t + 1, labels)
        return (x_t - math.sqrt(share) * clean) / math.sqrt(1 - share)

    return predict


def pia(
    predict: NoisePredictor,
    x: torch.Tensor,
    levels: Levels,
    ts: Sequence[int],
    powers: Sequence[float] = (4.0,),
) -> Scores:
    """Proximal initialisation attack (Kong et al. 2024): |e_0 - e(x_t, t)|_p^p with e_0 = e(x, first).

    Parameters
    ----------
    predict
        The attacked model.
    x
        float, shape (N, C, H, W): what the model takes for noise-free.
    levels
        The model's.
    ts
        Levels to measure at, above ``levels.first``.
    powers
        Powers p of the norm; the authors' code has 4.

    Raises
    ------
    ConfigError
        For a level that the model was not trained on.
    """
    return _proximal(predict, x, predict(x, levels.first), levels, ts, powers)


def pian(
    predict: NoisePredictor,
    x: torch.Tensor,
    levels: Levels,
    ts: Sequence[int],
    powers: Sequence[float] = (4.0,),
) -> Scores:
    """PIA with e_0 scaled, per image, to the mean magnitude of N(0, 1) noise, sqrt(2 / pi)."""
    e0 = predict(x, levels.first)
    mean = e0.abs().mean(dim=tuple(range(1, e0.ndim)), keepdim=True)
    return _proximal(predict, x, e0 / mean * math.sqrt(2 / math.pi), levels, ts, powers)


def secmi(
    predict: NoisePredictor,
    x: torch.Tensor,
    levels: Levels,
    ts: Sequence[int],
    stride: int,
) -> Scores:
    """SecMI_stat (Duan et al. 2023): error of one DDIM step up and one back, at the end of a DDIM path.

    From level ``first`` up in steps of ``stride`` to t, one more to t + stride, and back:
    |back - x_t|_2^2. The authors take t = 100 and a stride of 10 (their code stops at 90).

    Raises
    ------
    ConfigError
        When a level is not a whole number of strides above ``first``, or t + stride is not a level.
    """
    levels.check([t + stride for t in ts])
    if any((t - levels.first) % stride or t < levels.first for t in ts):
        raise ConfigError(
            f"SecMI's levels {list(ts)} must be whole steps of {stride} above {levels.first}, where it starts"
        )
    scores: Scores = {}
    t = levels.first
    while True:
        ahead = levels.move(predict, x, t, t + stride)
        if t in ts:
            back = levels.move(predict, ahead, t + stride, t)
            scores[Setting(t, 2.0)] = _power_sum(back - x, 2.0)
        if len(scores) == len(set(ts)):
            return scores
        x, t = ahead, t + stride


def loss_threshold(
    predict: NoisePredictor,
    x: torch.Tensor,
    levels: Levels,
    ts: Sequence[int],
    generator: torch.Generator,
    draws: int = 10,
) -> Scores:
    """Loss threshold attack: |e(x_t, t) - e|_2^2 at level t, the mean over ``draws`` of the noise e.

    ``generator`` is a CPU generator. Every image meets the same noise, which cancels part of its chance.
    """
    levels.check(ts)
    scores: Scores = {}
    for t in ts:
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for _ in range(draws):
            noise = torch.randn(x.shape[1:], generator=generator).to(x).expand_as(x)
            total += _power_sum(predict(levels.diffuse(x, t, noise), t) - noise, 2.0)
        scores[Setting(t, 2.0)] = total / draws
    return scores


def sima(
    predict: NoisePredictor,
    x: torch.Tensor,
    levels: Levels,
    ts: Sequence[int],
    powers: Sequence[float] = (4.0,),
) -> Scores:
    """SimA (Rao et al. 2025): |e(x, t)|_p^p, the noise that the model sees in the noise-free image."""
    levels.check(ts)
    scores: Scores = {}
    for t in ts:
        seen = predict(x, t)
        scores |= {Setting(t, power): _power_sum(seen, power) for power in powers}
    return scores


def _proximal(
    predict: NoisePredictor,
    x: torch.Tensor,
    e0: torch.Tensor,
    levels: Levels,
    ts: Sequence[int],
    powers: Sequence[float],
) -> Scores:
    levels.check(ts)
    scores: Scores = {}
    for t in ts:
        difference = e0 - predict(levels.diffuse(x, t, e0), t)
        scores |= {Setting(t, power): _power_sum(difference, power) for power in powers}
    return scores


def _power_sum(difference: torch.Tensor, power: float) -> torch.Tensor:
    """Return the sum of |difference|^power over each image, no root, float64 (N,)."""
    return difference.double().abs().pow(power).flatten(1).sum(1)
