"""Positive controls: targets that every working attack must defeat.

An attack that finds nothing proves nothing unless the same code finds something where there is something to
find. Two networks are overfitted on a few images of a client: one on clean images, as a personal denoiser,
and one on the levels of the global half, as if the release had forgotten its noise. And one release is made
with little noise (:mod:`fedpdiff.evidence.uploads`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fedpdiff.attack_results import Control
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.denoiser_config import DenoiserConfig
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import Progress, TrainingSettings, train_denoiser
from fedpdiff.evidence.artefacts import Artefacts
from fedpdiff.evidence.candidates import few_and_others
from fedpdiff.evidence.models import GLOBAL, PERSONAL, attack_denoiser
from fedpdiff.evidence.report import Say, quiet
from fedpdiff.rng import numpy_generator, torch_generator

NEEDED_AUC = 0.9
_STEPS = 600
_BATCH = 24
_ROUNDS = 4
_LEVELS = 0.25  # share of T above the lowest level: those that are attacked


@dataclass(frozen=True)
class OverfittedControl:
    """An overfitted model and what each attack made of it.

    Attributes
    ----------
    control
        The row of ``attacks.json``; passed when the best attack reaches :data:`NEEDED_AUC`.
    works
        For each attack, whether it does by itself.
    """

    control: Control
    works: dict[str, bool]


class _Few:
    """A few start images, drawn over and over."""

    def __init__(self, start: torch.Tensor, labels: torch.Tensor) -> None:
        self._start, self._labels = start, labels

    def draw(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.randint(len(self._start), (size,), generator=generator)
        return self._start[index], self._labels[index]


def overfitted_controls(artefacts: Artefacts, say: Say = quiet) -> dict[str, OverfittedControl]:
    """Overfit a network for each kind of target, :data:`GLOBAL` and :data:`PERSONAL`, and attack it."""
    return {
        GLOBAL: _overfit(artefacts, artefacts.global_half, GLOBAL, "the levels of the global model", say),
        PERSONAL: _overfit(artefacts, artefacts.clients[0].personal, PERSONAL, "clean images", say),
    }


def _overfit(artefacts: Artefacts, like: Denoiser, target: str, on: str, say: Say) -> OverfittedControl:
    seed, what = artefacts.config.seed, f"control: overfitted {target}"
    candidates = few_and_others(
        artefacts.clients[0].train, artefacts.images.held_out, numpy_generator(seed, "control", target)
    )
    denoiser = _untrained(artefacts, like.config, torch_generator(seed, "control", target).initial_seed())
    u = torch.from_numpy(artefacts.mechanism.clipped(candidates.members)).float()
    start = candidates.members.pixels() if target == PERSONAL else denoiser.chain.start**0.5 * u
    batches = _Few(start, candidates.members.labels)
    settings = TrainingSettings(_STEPS, _BATCH, artefacts.config.learning_rate, _STEPS // 20, 0.99, 1.0)
    auc: dict[str, float] = {}
    for number in range(_ROUNDS):
        train_denoiser(
            denoiser.network,
            denoiser.chain,
            batches,
            settings,
            torch_generator(seed, "control", target, number),
            _progress(say, what, number),
        )
        judged = attack_denoiser(denoiser, artefacts.mechanism, candidates, seed, name=what)
        auc = {found.attack: found.report.auc.value for found in judged}
        if max(auc.values()) > NEEDED_AUC:
            break
    best = max(auc, key=lambda name: auc[name])
    return OverfittedControl(
        Control(
            name=f"overfitted {target}",
            what=f"a network trained on nothing but {len(candidates.members)} images of "
            f"{artefacts.clients[0].name}, on {on}, without the noise of a release",
            measured=f"AUC {auc[best]:.3f} ({best})",
            needed=f"AUC above {NEEDED_AUC:g}",
            passed=auc[best] > NEEDED_AUC,
        ),
        {name: value > NEEDED_AUC for name, value in auc.items()},
    )


def _progress(say: Say, what: str, number: int) -> Progress:
    return lambda done, total, loss: say(what, number * total + done, (number + 1) * total)


def _untrained(artefacts: Artefacts, config: DenoiserConfig, seed: int) -> Denoiser:
    """Return a new network for the levels that are attacked, in the frame of a target of this kind."""
    config = config.model_copy(
        update={"clip_flag": False, "hidden_label": False, "guidance_scale": 1.0, "unseen": []}
    )
    channels, height, width = config.image_shape
    network = build_network(artefacts.config.network, (channels, height, width), config.conditions, seed)
    centre = torch.zeros(channels, height, width)
    denoiser = Denoiser(network.to(artefacts.device).eval(), config, centre)
    last = min(denoiser.chain.last, denoiser.chain.first + round(_LEVELS * config.diffusion_steps))
    denoiser.chain = replace(denoiser.chain, last=last)
    return denoiser
