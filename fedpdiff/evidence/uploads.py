"""Attacks on single uploads: whose is it, was this image among them, and what does it show?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdiff.attack_results import Attribute, Control, Membership, Reidentification, percent
from fedpdiff.attacks.attribute import Reader, gaussian_reader, read_attribute, train_network_reader
from fedpdiff.attacks.reidentification import random_groups, reidentify
from fedpdiff.attacks.statistics import membership_report
from fedpdiff.attacks.upload_membership import attack_upload_membership
from fedpdiff.data.classes import COLOURS
from fedpdiff.evidence.candidates import Candidates
from fedpdiff.evidence.report import Say, membership_row, quiet, share, upper
from fedpdiff.evidence.scene import Uploads, UploadScene
from fedpdiff.rng import torch_generator
from fedpdiff.types import concatenate

UPLOADS = "uploads"
Scores = NDArray[np.float64]

_SMALL_GALLERY = 100
_FAR_ABOVE = 10  # times chance, that is what a control must exceed
_SURE = 0.999
_READER_STEPS = 300


def reidentification(scene: UploadScene, say: Say = quiet) -> list[Reidentification]:
    """Match every upload with the image that is nearest among the candidates, at every level."""
    found = []
    for number, level in enumerate(scene.levels):
        uploads = scene.uploads(level)
        share_of_signal, mu = uploads.mechanism.alpha_bar, uploads.mechanism.mu
        for gallery, groups in _galleries(uploads, scene.generator("galleries", level)).items():
            result = reidentify(uploads.values, uploads.truth, share_of_signal**0.5, mu, groups)
            found.append(
                Reidentification(
                    t0=level,
                    epsilon=uploads.epsilon,
                    uploads=uploads.origin,
                    gallery=gallery,
                    candidates=result.candidates,
                    rate=share(result.found),
                    chance=result.chance,
                    cap=upper(result.cap),
                )
            )
        say("re-identification", number + 1, len(scene.levels))
    return found


def _galleries(uploads: Uploads, generator: np.random.Generator) -> Mapping[str, NDArray[np.int64] | None]:
    count = len(uploads.labels)
    galleries: dict[str, NDArray[np.int64] | None] = {f"all {count}": None}
    if count >= 2 * _SMALL_GALLERY:
        galleries[f"{_SMALL_GALLERY} at random"] = random_groups(count, _SMALL_GALLERY, generator)
    return galleries | {"same class": uploads.labels}


def low_noise_control(scene: UploadScene) -> Control:
    """Re-identify uploads of a release with little noise; the attack must succeed far above chance."""
    uploads = scene.uploads(scene.control_level)
    mechanism = uploads.mechanism
    result = reidentify(uploads.values, uploads.truth, mechanism.alpha_bar**0.5, mechanism.mu)
    needed = min(0.5, _FAR_ABOVE * result.chance)
    return Control(
        name="low-noise release",
        what=f"a release of the same images at t0 = {mechanism.t0}, epsilon {uploads.epsilon:g} of one image",
        measured=f"{percent(result.rate)} of uploads matched to their own image of {result.candidates:.0f}",
        needed=f"surely above {percent(needed, 2)}, guessing {percent(result.chance, 2)}",
        passed=result.found.interval(_SURE).low > needed,
    )


def upload_membership(scene: UploadScene, say: Say = quiet) -> tuple[Membership, tuple[Scores, Scores]]:
    """Was an image among the uploads? The Bayes score, with all uploads that the server holds.

    Returns the row, and the scores of members and of non-members in random order.
    """
    say("membership: uploads", 0, 1)
    clients, mechanism = scene.artefacts.clients, scene.mechanism
    values = torch.cat([client.uploads for client in clients]).double().numpy()
    everyone = concatenate(client.train for client in clients)
    candidates = Candidates.draw(
        everyone, scene.artefacts.images.held_out, scene.most, scene.generator("candidates")
    )
    population = scene.gaussian()
    members, others = (
        attack_upload_membership(population, mechanism.clipped(images), values, mechanism.alpha_bar)
        for images in (candidates.members, candidates.non_members)
    )
    say("membership: uploads", 1, 1)
    report = membership_report(members, others)
    row = membership_row(report, (members, others), "Bayes score", "", UPLOADS, mu=mechanism.mu)
    return row, (members, others)


def attributes(scene: UploadScene, say: Say = quiet) -> list[Attribute]:
    """Read the class, and the colour where images were coloured, from single uploads at every level.

    Labels are disclosed with the uploads; here the reader does not look at them, because an attribute that
    is no label is read just so.
    """
    found = []
    for number, level in enumerate(scene.levels):
        uploads = scene.uploads(level)
        for name, values, public in _attributes(scene, uploads):
            for kind, reader in _readers(scene, uploads, public, name):
                result = read_attribute(reader, uploads.values, values, uploads.mechanism.mu)
                found.append(
                    Attribute(
                        t0=level,
                        epsilon=uploads.epsilon,
                        uploads=uploads.origin,
                        attribute=name,
                        values=int(public.max()) + 1,
                        reader=kind,
                        accuracy=share(result.right),
                        chance=result.chance,
                        cap=upper(result.cap),
                    )
                )
        say("attributes", number + 1, len(scene.levels))
    return found


def _attributes(
    scene: UploadScene, uploads: Uploads
) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield name, values of the uploads and values of the attacker's images."""
    public = scene.attacker[0].labels.numpy()
    if scene.artefacts.config.data_transform != "colorize":
        yield "class", uploads.labels, public
        return
    classes = len(scene.artefacts.images.class_names) // len(COLOURS)  # label = colour * classes + class
    yield "class", uploads.labels % classes, public % classes
    yield "colour", uploads.labels // classes, public // classes


def _readers(
    scene: UploadScene, uploads: Uploads, public: NDArray[np.int64], name: str
) -> Iterator[tuple[str, Reader]]:
    """Yield the readers: the Gaussian one at every level, a network at the run's and the control's."""
    level, share_of_signal = uploads.mechanism.t0, uploads.mechanism.alpha_bar
    yield "Gaussian model", gaussian_reader(scene.gaussian(public), share_of_signal)
    if level in (scene.mechanism.t0, scene.control_level):
        u = uploads.mechanism.clipped(scene.attacker[0])
        generator = torch_generator(scene.seed, "upload attacks", "reader", name, level)
        yield "network", train_network_reader(u, public, share_of_signal, generator, _READER_STEPS)
