"""Reconstruction of uploads by every attacker of the threat model, with every method.

Attackers: one with public images only (linear); one with a denoiser trained on them; another client of the
run with its personal denoiser; one with the global model, which knows nothing below the level of the uploads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdiff.attack_results import Recovery
from fedpdiff.attacks.image_quality import psnr, recovery, ssim, undo_clip
from fedpdiff.attacks.linear import wiener
from fedpdiff.attacks.model_priors import clean_image_prior, entry, global_view, typical_shrink
from fedpdiff.attacks.reconstruction import Prior, ddim, maximum_a_posteriori, posterior_mean, tweedie
from fedpdiff.attacks.reidentification import reidentify
from fedpdiff.attacks.shrinkage import best_trust, trusted
from fedpdiff.attacks.uploads import noised
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.evidence.report import Say, quiet, share
from fedpdiff.evidence.scene import Uploads, UploadScene
from fedpdiff.federation.networks import Trainer
from fedpdiff.rng import torch_generator

PUBLIC_IMAGES, PUBLIC_MODEL = "public images", "model of public images"
INSIDER, GLOBAL = "another client's model", "global model"
_IMAGES = 64
_OWN_IMAGES = 40  # on which an attacker learns how far to trust its estimates
_SHOWN = 8
_DDIM_STEPS = 25
_SAMPLES, _SAMPLE_STEPS = 4, 20  # of the posterior mean
_MAP_STEPS = 40

Values = NDArray[np.float64]
Labels = NDArray[np.int64]
Method = Callable[[Prior, torch.Tensor, int, torch.Tensor], torch.Tensor]
Estimate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps uploads y, float32 (n, C, H, W), and their disclosed labels to estimates of u."""


@dataclass(frozen=True)
class Mounted:
    """One attack at one level."""

    attacker: str
    attack: str
    estimate: Estimate


@dataclass(frozen=True, eq=False)
class Pictures:
    """A few images in pixels, before and after, at several levels.

    Attributes
    ----------
    levels
        t0 of each row, ascending.
    attacks
        What recovered the images of each row: the strongest attack mounted at its level.
    originals, guesses
        float, shape (k, C, H, W): clipped as they were released, and the best guess without the upload.
    uploads, recovered
        float, shape (rows, k, C, H, W).
    """

    levels: list[int]
    attacks: list[str]
    originals: Values
    guesses: Values
    uploads: Values
    recovered: Values


def reconstruction(scene: UploadScene, say: Say = quiet) -> tuple[list[Recovery], Pictures]:
    """Attack uploads of the first client: every method at the run's level and the control's.

    At the other levels the quick attacks are mounted, the linear one and one call of each attacker's model.
    """
    models = _models(scene, say)
    found: list[Recovery] = []
    pictures: list[tuple[Uploads, str, Values]] = []
    for number, level in enumerate(scene.levels):
        uploads = _first_client(scene.uploads(level))
        judged = [_judge(scene, uploads, mounted) for mounted in _attacks(scene, models, level)]
        row, estimate = min(judged, key=lambda pair: pair[0].trusted)
        found += [row for row, _ in judged]
        pictures.append((uploads, f"{row.attack}, {row.attacker}", estimate[:_SHOWN]))
        say("reconstruction", number + 1, len(scene.levels))
    return found, _pictures(scene, pictures)


def _models(scene: UploadScene, say: Say) -> dict[str, Denoiser]:
    """Return the denoisers of clean images that attackers hold, by attacker."""
    artefacts = scene.artefacts
    agreed = artefacts.agreement
    steps = max(1, artefacts.config.personal_steps // 2)  # fewer images than a client has: sooner learnt
    changes = {"clip_flag": False, "device": str(artefacts.device), "personal_steps": steps}
    changes["personal_base"] = "none"  # Wiener's filter is an attack of its own; this one is the network
    config = artefacts.config.model_copy(update=changes)
    trainer = Trainer(config, agreed.mechanism, agreed.centre, artefacts.images.class_names)
    public = trainer.personal(
        scene.attacker[0],
        ("attacker", "public"),
        progress=lambda done, total, loss: say("attacker's model of public images", done, total),
    )
    insider = {INSIDER: artefacts.clients[1].personal} if len(artefacts.clients) > 1 else {}
    return {PUBLIC_MODEL: public, **insider}


def _attacks(scene: UploadScene, models: dict[str, Denoiser], level: int) -> Iterator[Mounted]:
    own, device = level == scene.mechanism.t0, scene.artefacts.device
    thorough = own or level == scene.control_level
    alpha_bar = scene.mechanism.at(level).alpha_bar

    def linear(y: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(wiener(scene.by_class, y.numpy(), labels.numpy(), alpha_bar)).view(y.shape)

    yield Mounted(PUBLIC_IMAGES, "Wiener", linear)
    for attacker, denoiser in models.items():
        yield from _model_attacks(scene, attacker, denoiser, level, thorough)
    if own:
        half, generator = scene.artefacts.global_half, torch_generator(scene.seed, "upload attacks", "view")
        yield Mounted(
            GLOBAL,
            "its view",
            lambda y, labels: global_view(half, y.to(device), labels.to(device), generator).cpu(),
        )


def _model_attacks(
    scene: UploadScene, attacker: str, denoiser: Denoiser, level: int, thorough: bool
) -> Iterator[Mounted]:
    """Yield the attacks with a denoiser of clean images; all of them where ``thorough``."""
    public = scene.attacker[0].pixels()
    centre = torch.from_numpy(scene.mechanism.centre)
    shrink = typical_shrink(public, centre, scene.mechanism.clip)
    prior = clean_image_prior(denoiser)
    door = entry(prior, scene.mechanism.at(level).alpha_bar, shrink, centre)
    device = scene.artefacts.device
    generator = torch_generator(scene.seed, "upload attacks", attacker, level, device=device)

    def mount(name: str, method: Method) -> Mounted:
        def estimate(y: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            pixels = method(prior, door.enter(y.to(device)), door.level, labels.to(device))
            return door.leave(pixels).cpu()

        return Mounted(attacker, name, estimate)

    yield mount("Tweedie", tweedie)
    if thorough:
        yield mount("DDIM", partial(ddim, steps=_DDIM_STEPS))
        yield mount(
            "posterior mean",
            partial(posterior_mean, generator=generator, samples=_SAMPLES, steps=_SAMPLE_STEPS),
        )
        yield mount("MAP", partial(maximum_a_posteriori, iterations=_MAP_STEPS))


def _judge(scene: UploadScene, uploads: Uploads, mounted: Mounted) -> tuple[Recovery, Values]:
    """Mount one attack and score it; also learn on the attacker's own images how far to trust it."""
    mechanism, by_class = uploads.mechanism, scene.by_class
    guess = by_class.prior_guess(uploads.labels)
    own = scene.attacker[1].select(torch.arange(min(_OWN_IMAGES, len(scene.attacker[1]))))
    own_u, own_labels = mechanism.clipped(own), own.labels.numpy()
    own_uploads = noised(own_u, mechanism.alpha_bar, scene.generator("trust", mechanism.t0))
    # In one go: the attacks take long for few images already.
    both = np.concatenate([uploads.values, own_uploads])
    found = _run(mounted, both, np.concatenate([uploads.labels, own_labels]))
    estimate = found[: len(guess)]
    trust = best_trust(found[len(guess) :], own_u, by_class.prior_guess(own_labels))
    careful = trusted(estimate, guess, trust)
    score = recovery(estimate, uploads.truth, guess)
    picked = reidentify(estimate, uploads.truth, 1.0, mechanism.mu)
    shape = uploads.truth.shape
    row = Recovery(
        t0=mechanism.t0,
        epsilon=uploads.epsilon,
        uploads=uploads.origin,
        attacker=mounted.attacker,
        attack=mounted.attack,
        images=len(estimate),
        score=score.score,
        standard_error=score.standard_error,
        trusted=recovery(careful, uploads.truth, guess).score,
        unclipped=recovery(
            undo_clip(careful, uploads.unclipped), uploads.unclipped, undo_clip(guess, uploads.unclipped)
        ).score,
        psnr=float(psnr(careful, uploads.truth).mean()),
        ssim=float(ssim(careful.reshape(shape), uploads.truth).mean()),
        reidentified=share(picked.found),
        chance=picked.chance,
    )
    return row, careful.reshape(shape)


def _run(mounted: Mounted, uploads: Values, labels: Labels) -> Values:
    y = torch.from_numpy(uploads).float()
    return mounted.estimate(y, torch.from_numpy(labels)).double().numpy().reshape(len(y), -1)


def _first_client(uploads: Uploads) -> Uploads:
    """Return the first uploads of the first client: the insider's own images are not among them."""
    return uploads.take(np.flatnonzero(uploads.owners == 0)[:_IMAGES])


def _pictures(scene: UploadScene, rows: list[tuple[Uploads, str, Values]]) -> Pictures:
    centre = scene.mechanism.centre.astype(np.float64)
    first = rows[0][0].take(np.arange(min(_SHOWN, len(rows[0][0].labels))))
    return Pictures(
        levels=[uploads.mechanism.t0 for uploads, _, _ in rows],
        attacks=[attack for _, attack, _ in rows],
        originals=first.truth + centre,
        guesses=scene.by_class.prior_guess(first.labels).reshape(first.truth.shape) + centre,
        uploads=np.stack([u.values[:_SHOWN] + u.mechanism.alpha_bar**0.5 * centre for u, _, _ in rows]),
        recovered=np.stack([estimate + centre for _, _, estimate in rows]),
    )
