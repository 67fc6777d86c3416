"""Membership attacks on a run's models: the global half, which the guarantee covers, and the personal ones.

A personal denoiser was trained on clean images and nothing but secrecy protects it; it is attacked to show
what would leak if it got out. A global half knows uploads only, so no attack on it can beat the best attack
on the uploads: success above the cap would be a mistake in the accounting or in the code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedpdiff.attack_results import Membership
from fedpdiff.attacks.membership import Levels, Scores, Setting, clean_noise_predictor, start_noise_predictor
from fedpdiff.attacks.membership_suite import (
    LOSS,
    PIA,
    PIAN,
    SIMA,
    JudgedAttack,
    default_grid,
    judge,
    score_images,
)
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.evidence.artefacts import Artefacts, Mechanism
from fedpdiff.evidence.candidates import Candidates
from fedpdiff.evidence.report import Say, membership_row, quiet
from fedpdiff.rng import numpy_generator
from fedpdiff.types import LabelledImages, concatenate

FULL_NOISE = "loss threshold, with the noise of t0"
GLOBAL, PERSONAL = "global model", "personal model"
_OPEN_POWER = (PIA, PIAN, SIMA)  # attacks that leave the power of the norm open

Works = Mapping[str, bool]
"""For each attack, whether it found the training images of an overfitted model."""


def attack_models(
    artefacts: Artefacts,
    works: Mapping[str, Works],
    most: int,
    personal_models: int,
    say: Say = quiet,
) -> list[Membership]:
    """Mount all membership attacks on the global model and on the first personal models.

    Parameters
    ----------
    artefacts
        The run.
    works
        By target (:data:`GLOBAL`, :data:`PERSONAL`): which attacks defeated its control.
    most
        Largest number of members, and of non-members.
    personal_models
        How many clients' personal models are attacked.
    """
    seed, held_out = artefacts.config.seed, artefacts.images.held_out
    everyone = concatenate(client.train for client in artefacts.clients)
    targets: list[tuple[str, str | None, Denoiser, LabelledImages]] = [
        (GLOBAL, None, artefacts.global_half, everyone),
        *((PERSONAL, c.name, c.personal, c.train) for c in artefacts.clients[:personal_models]),
    ]
    found = []
    for target, client, denoiser, members in targets:
        name = target if client is None else f"{target} of {client}"
        candidates = Candidates.draw(members, held_out, most, numpy_generator(seed, "candidates", name))
        for judged in attack_denoiser(denoiser, artefacts.mechanism, candidates, seed, say, name):
            row = membership_row(
                judged.report,
                (judged.members, judged.non_members),
                judged.attack,
                setting_words(judged),
                target,
                client,
                artefacts.mechanism.mu if target == GLOBAL else None,
                works[target].get(judged.attack, False),
            )
            found.append(row)
    return found


def attack_denoiser(
    denoiser: Denoiser,
    mechanism: Mechanism,
    candidates: Candidates,
    seed: int,
    say: Say = quiet,
    name: str = "model",
) -> list[JudgedAttack]:
    """Mount every membership attack on a denoiser, each at the setting that the validation half chose."""
    images = concatenate([candidates.members, candidates.non_members])
    scores = _scores(denoiser, mechanism, images, seed, say, name)
    inside, outside = slice(0, len(candidates.members)), slice(len(candidates.members), None)
    return [
        judge(attack, _rows(found, inside), _rows(found, outside), numpy_generator(seed, "halves", name))
        for attack, found in scores.items()
    ]


def setting_words(judged: JudgedAttack) -> str:
    """Return the chosen setting in words; levels count from 1 as everywhere but in the attacks' papers."""
    level = f"level {judged.setting.t + 1}"
    return f"{level}, power {judged.setting.power:g}" if judged.attack in _OPEN_POWER else level


def _scores(
    denoiser: Denoiser, mechanism: Mechanism, images: LabelledImages, seed: int, say: Say, name: str
) -> dict[str, Scores]:
    chain, device, is_global = denoiser.chain, denoiser.device, denoiser.config.kind != "personal"
    levels, clean = Levels.of(chain), Levels.of_clean_images(chain)
    u = torch.from_numpy(mechanism.clipped(images)).float() if is_global else images.pixels()
    parts = 2 if is_global else 1
    scores = score_images(
        lambda labels: start_noise_predictor(denoiser, labels),
        levels,
        chain.start**0.5 * u,  # what the denoiser takes for an image without noise
        images.labels,
        default_grid(levels),
        seed,
        device=device,
        progress=lambda done, total: say(f"membership: {name}", done, parts * total),
    )
    if is_global:  # asked where it was trained as well: on images that carry the noise of their level
        scores[FULL_NOISE] = score_images(
            lambda labels: clean_noise_predictor(denoiser, labels),
            clean,
            u,
            images.labels,
            default_grid(clean),
            seed,
            (LOSS,),
            device=device,
            progress=lambda done, total: say(f"membership: {name}", total + done, 2 * total),
        )[LOSS]
    return scores


def _rows(scores: Scores, which: slice) -> dict[Setting, torch.Tensor]:
    return {setting: values[which] for setting, values in scores.items()}
