"""All membership attacks on one denoiser: which settings are tried, and how the best one is chosen.

The setting of an attack (level and power) is chosen on one random half of members and non-members and judged
on the other: the best of many settings looks better than it is on the scores that chose it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdiff.attacks.membership import (
    Levels,
    NoisePredictor,
    Scores,
    Setting,
    loss_threshold,
    pia,
    pian,
    secmi,
    sima,
)
from fedpdiff.attacks.statistics import MembershipReport, area_under_curve, membership_report
from fedpdiff.errors import ConfigError, DataError
from fedpdiff.rng import torch_generator

PIA, PIAN, SECMI, LOSS, SIMA = "PIA", "PIAN", "SecMI", "loss threshold", "SimA"
ATTACKS = (PIA, PIAN, SECMI, LOSS, SIMA)

# Shares of T above the lowest level; the papers measure at about 0.1 to 0.2.
_OFFSETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
_LOSS_OFFSETS = (0.02, 0.05, 0.1, 0.2)  # fewer: each costs many draws
_SECMI_STRIDES = (2, 5, 10, 20)
_BATCH = 512

PredictorFor = Callable[[torch.Tensor], NoisePredictor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Grid:
    """Settings to try.

    Attributes
    ----------
    ts, loss_ts
        Levels of PIA, PIAN and SimA, and of the loss.
    secmi_ts, stride
        Levels of SecMI, and the step of its path; ``stride`` 0: too few levels, SecMI is left out.
    powers
        Powers of the norm, where an attack leaves it open.
    draws
        Draws of noise of the loss attack.
    """

    ts: tuple[int, ...]
    loss_ts: tuple[int, ...]
    secmi_ts: tuple[int, ...]
    stride: int
    powers: tuple[float, ...] = (2.0, 4.0)
    draws: int = 10


def default_grid(levels: Levels) -> Grid:
    """Return levels at fixed shares of T above the model's lowest one, as far as it has them.

    Raises
    ------
    ConfigError
        When the model was trained on fewer than two levels.
    """
    first, last, steps = levels.first, levels.last, len(levels.ratio)
    if last <= first:
        raise ConfigError(f"the model has the one level {first}; membership attacks need at least two")
    ts, loss_ts = (
        tuple(sorted({min(last, first + max(1, round(share * steps))) for share in shares}))
        for shares in (_OFFSETS, _LOSS_OFFSETS)
    )
    stride = max(1, round(0.01 * steps))
    secmi_ts = tuple(first + n * stride for n in _SECMI_STRIDES if first + (n + 1) * stride <= last)
    return Grid(ts, loss_ts, secmi_ts, stride if secmi_ts else 0)


def score_images(
    predictor_for: PredictorFor,
    levels: Levels,
    x: torch.Tensor,
    labels: torch.Tensor,
    grid: Grid,
    seed: int,
    attacks: tuple[str, ...] = ATTACKS,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Scores]:
    """Run attacks on images.

    Parameters
    ----------
    predictor_for
        Maps labels, int64 (n,), to the attacked model's noise predictor for images of these labels.
    levels
        The model's.
    x, labels
        Images as the model takes them, float (N, C, H, W), and their classes, int64 (N,).
    grid
        Settings to try.
    seed
        Of the noise of the loss attack; every image meets the same.
    attacks
        Names, of :data:`ATTACKS`.
    device
        The model's.
    progress
        Called with (images done, images in all).

    Returns
    -------
    dict
        For each attack its scores by setting, on the CPU.
    """
    parts: list[dict[str, Scores]] = []
    with torch.inference_mode():
        for start in range(0, len(x), _BATCH):
            batch, classes = x[start : start + _BATCH].to(device), labels[start : start + _BATCH].to(device)
            parts.append(_score_batch(predictor_for(classes), levels, batch, grid, seed, attacks))
            if progress is not None:
                progress(min(len(x), start + _BATCH), len(x))
    if not parts:
        raise DataError("there are no images to attack")
    return {
        name: {setting: torch.cat([part[name][setting].cpu() for part in parts]) for setting in scores}
        for name, scores in parts[0].items()
    }


def _score_batch(
    predict: NoisePredictor,
    levels: Levels,
    x: torch.Tensor,
    grid: Grid,
    seed: int,
    attacks: tuple[str, ...],
) -> dict[str, Scores]:
    def loss() -> Scores:
        generator = torch_generator(seed, "loss threshold attack")
        return loss_threshold(predict, x, levels, grid.loss_ts, generator, grid.draws)

    run: dict[str, Callable[[], Scores]] = {
        PIA: lambda: pia(predict, x, levels, grid.ts, grid.powers),
        PIAN: lambda: pian(predict, x, levels, grid.ts, grid.powers),
        SECMI: lambda: secmi(predict, x, levels, grid.secmi_ts, grid.stride),
        LOSS: loss,
        SIMA: lambda: sima(predict, x, levels, grid.ts, grid.powers),
    }
    return {name: run[name]() for name in attacks if name != SECMI or grid.stride}


@dataclass(frozen=True, eq=False)
class JudgedAttack:
    """One attack at the setting that the validation half chose, judged on the other half.

    Attributes
    ----------
    attack, setting
        Its name and the chosen setting.
    report
        Its success on the evaluation half.
    members, non_members
        Scores of the evaluation half, float64, for a curve.
    """

    attack: str
    setting: Setting
    report: MembershipReport
    members: NDArray[np.float64]
    non_members: NDArray[np.float64]


def judge(attack: str, members: Scores, non_members: Scores, generator: np.random.Generator) -> JudgedAttack:
    """Choose the setting with the largest AUC on one half and judge it on the other.

    Parameters
    ----------
    attack
        Its name.
    members, non_members
        Scores by setting; the same settings on both sides, at least four images on each.
    generator
        Draws the halves. Give every attack on the same images one with the same seed, so that all of them
        are judged on the same half.

    Raises
    ------
    DataError
        When there are too few images to halve.
    """
    counts = [len(next(iter(scores.values()))) for scores in (members, non_members)]
    if min(counts) < 4:
        raise DataError(
            f"{counts[0]} members and {counts[1]} non-members: at least 4 of each are needed to choose the "
            "setting of an attack on one half and judge it on the other"
        )
    orders = [generator.permutation(count) for count in counts]

    def half(setting: Setting, which: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        inside, outside = (
            scores[setting].numpy()[order[which::2]]
            for scores, order in zip((members, non_members), orders, strict=True)
        )
        return inside, outside

    chosen = max(members, key=lambda setting: area_under_curve(*half(setting, 0)).value)
    inside, outside = half(chosen, 1)
    report = membership_report(inside, outside, validation=half(chosen, 0))
    return JudgedAttack(attack, chosen, report, inside, outside)
