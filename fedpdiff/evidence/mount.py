"""All attacks on one run, in order, and their results in one place."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from fedpdiff.attack_results import RECOVERED_FILE, AttackResults
from fedpdiff.errors import ConfigError
from fedpdiff.evidence.artefacts import Artefacts, read_artefacts
from fedpdiff.evidence.controls import overfitted_controls
from fedpdiff.evidence.copies import copies, copy_control
from fedpdiff.evidence.epsilon import audited, from_membership
from fedpdiff.evidence.models import attack_models
from fedpdiff.evidence.rebuild import Pictures, reconstruction
from fedpdiff.evidence.report import Say, quiet
from fedpdiff.evidence.scene import UploadScene
from fedpdiff.evidence.uploads import attributes, low_noise_control, reidentification, upload_membership
from fedpdiff.evidence.verdict import exceeded, verdict

_REPLAYED = (
    "This run did not keep which upload is of which image, so at its own t0 too the uploads were made for "
    "the attack: by the same mechanism, of the same images. Only the membership attack uses the sent ones."
)
_FEW_OTHERS = (
    "There are {count} non-members: rates at 1 % false positives need 1,000 and at 0.1 % 10,000, otherwise "
    "they are not meaningful and no number is given."
)


@dataclass(frozen=True)
class Effort:
    """How much is attacked.

    Attributes
    ----------
    images
        Largest number of members, of non-members and of uploads in one attack.
    clients
        How many clients' personal models and samples are attacked.
    """

    images: int = 500
    clients: int = 2

    def __post_init__(self) -> None:
        """Refuse what no attack can work with."""
        if self.images < 20 or self.clients < 1:
            raise ConfigError(
                f"--images {self.images}, --clients {self.clients}: must be at least 20 and 1, otherwise no "
                "attack can show anything"
            )


@dataclass
class _Clock:
    """Seconds by part."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 2)


def mount_attacks(folder: Path, effort: Effort, device: str = "auto", say: Say = quiet) -> AttackResults:
    """Attack a finished simulation and write ``attacks.json`` and the recovered images into its folder.

    Parameters
    ----------
    folder
        The run folder.
    effort
        How much is attacked.
    device
        As the setting ``device``.
    say
        Told what is being done.

    Raises
    ------
    RunError, DataError
        When the run is not finished, is no simulation, or its data cannot be loaded again.
    """
    clock = _Clock()
    with clock.part("reading"):
        say("reading the run", 0, 1)
        artefacts = read_artefacts(folder, device)
    results, pictures = _attack(artefacts, effort, clock, say)
    results = results.model_copy(update={"exceeded": [*results.exceeded, *exceeded(results)]})
    results = results.model_copy(update={"verdict": verdict(results)})
    _write_pictures(artefacts.folder / RECOVERED_FILE, pictures)
    results.write(artefacts.folder)
    return results


def _attack(artefacts: Artefacts, effort: Effort, clock: _Clock, say: Say) -> tuple[AttackResults, Pictures]:
    scene = UploadScene(artefacts, effort.images)
    with clock.part("controls"):
        overfitted = overfitted_controls(artefacts, say)
        controls = [found.control for found in overfitted.values()]
        controls += [low_noise_control(scene), copy_control(artefacts)]
    with clock.part("membership"):
        on_uploads, scores = upload_membership(scene, say)
        works = {target: found.works for target, found in overfitted.items()}
        on_models = attack_models(artefacts, works, effort.images, effort.clients, say)
    with clock.part("re-identification and attributes"):
        matched, read = reidentification(scene, say), attributes(scene, say)
    with clock.part("reconstruction"):
        rebuilt, pictures = reconstruction(scene, say)
    with clock.part("memorisation"):
        memorised = copies(artefacts, effort.clients, say)
    with clock.part("epsilon"):
        measured, problems = audited(artefacts.mechanism, say)
        measured += from_membership(*scores, artefacts.mechanism)
    results = AttackResults(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        software=_software(),
        seconds=clock.seconds,
        privacy=artefacts.mechanism.statement(),
        release_noise=artefacts.agreement.mechanism.noise,
        controls=controls,
        verdict=None,
        exceeded=[f"audit: {problem}" for problem in problems],
        membership=[on_uploads, *on_models],
        memorisation=memorised,
        reidentification=matched,
        recovery=rebuilt,
        attributes=read,
        epsilon=measured,
        notes=_notes(artefacts, effort, on_uploads.non_members),
    )
    return results, pictures


def _notes(artefacts: Artefacts, effort: Effort, non_members: int) -> list[str]:
    notes = [artefacts.images.origin]
    uploads = sum(len(client.labels) for client in artefacts.clients)
    if uploads > effort.images or len(artefacts.clients) > effort.clients:
        notes.append(
            f"Attacked were at most {effort.images} of the {uploads} uploads, chosen at random, and the own "
            f"models and samples of {min(effort.clients, len(artefacts.clients))} of "
            f"{len(artefacts.clients)} clients."
        )
    if any(client.rows is None for client in artefacts.clients):
        notes.append(_REPLAYED)
    if non_members < 1000:
        notes.append(_FEW_OTHERS.format(count=non_members))
    return notes


def _write_pictures(path: Path, pictures: Pictures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        levels=np.array(pictures.levels),
        attacks=np.array(pictures.attacks),
        originals=pictures.originals.astype(np.float16),
        guesses=pictures.guesses.astype(np.float16),
        uploads=pictures.uploads.astype(np.float16),
        recovered=pictures.recovered.astype(np.float16),
    )


def _software() -> str:
    try:
        return f"fedpdiff {version('fedpdiff')}"
    except PackageNotFoundError:
        return "fedpdiff"
