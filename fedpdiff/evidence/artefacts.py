"""What a finished simulation left behind, read back for the attacks; nothing is written or trained here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdiff.config import RunConfig
from fedpdiff.deletions import deletions
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.errors import DataError, PrivacyError, RunError
from fedpdiff.evidence.images import RunImages, load_images
from fedpdiff.federation.agreement import Agreement, propose
from fedpdiff.federation.networks import choose_device, use_threads
from fedpdiff.federation.server import load_samples
from fedpdiff.federation.spool import Spool
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.mechanism import clip
from fedpdiff.privacy.row_images import images_of_rows
from fedpdiff.privacy.statement import privacy_statement
from fedpdiff.runfolder import RunFolder, check_format
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

SAMPLES = ("pfdm", "local")


@dataclass(frozen=True, eq=False)
class Mechanism:
    """The release that the run agreed on, as the attacks need it.

    Attributes
    ----------
    t0, alpha_bar, clip
        Level, share of signal and radius C.
    centre
        float32, shape (C, H, W).
    delta
        Of the statement.
    schedule
        The noise schedule.
    """

    t0: int
    alpha_bar: float
    clip: float
    centre: NDArray[np.float32]
    delta: float
    schedule: NoiseSchedule

    @property
    def mu(self) -> float:
        """Sensitivity over noise."""
        return mu_of(self.alpha_bar, self.clip)

    def at(self, t0: int) -> Mechanism:
        """Return the same mechanism at another level."""
        share = float(self.schedule.alpha_bar[t0])
        return Mechanism(t0, share, self.clip, self.centre, self.delta, self.schedule)

    def clipped(self, images: LabelledImages) -> NDArray[np.float64]:
        """Return u = CLIP(x - c, C), shape (N, C, H, W)."""
        return clip(images.pixels().numpy(), self.centre, self.clip)

    def statement(self) -> dict[str, object]:
        """Return the privacy statement of one release with this mechanism."""
        return privacy_statement(self.alpha_bar, self.clip, self.delta, self.t0, self.schedule.name)


@dataclass(frozen=True, eq=False)
class ClientArtefacts:
    """One client: its clean images, what it sent, and what it kept.

    Attributes
    ----------
    name, number
        Of the simulated client.
    train
        Its images.
    uploads, labels
        What the server holds of it: decoded uploads, float32 (n, C, H, W), and classes, int64 (n,).
    rows
        For each upload the row of its image in ``train``; ``None`` where the run did not keep it.
    personal
        Its personal denoiser, which no guarantee covers.
    samples
        Generated images by method.
    """

    name: str
    number: int
    train: LabelledImages
    uploads: torch.Tensor
    labels: torch.Tensor
    rows: NDArray[np.int64] | None
    personal: Denoiser
    samples: dict[str, LabelledImages]


@dataclass(frozen=True, eq=False)
class Artefacts:
    """Everything that the attacks on a run need."""

    folder: Path
    config: RunConfig
    agreement: Agreement
    mechanism: Mechanism
    images: RunImages
    global_half: Denoiser
    clients: tuple[ClientArtefacts, ...]
    device: torch.device


def read_artefacts(folder: Path, device: str = "auto") -> Artefacts:
    """Read a run folder and load the run's images again.

    Parameters
    ----------
    folder
        Of a finished simulation.
    device
        As the setting ``device``.

    Raises
    ------
    RunError
        When the run is not finished or no simulation: attacks are judged by the clean images.
    DataError
        When the run's data cannot be loaded again, or a model is damaged.
    """
    run = RunFolder(Path(folder))
    check_format(run.root)
    config = _read_config(run)
    spools = [Spool.open(path) for path in run.spools()]
    if not spools or not run.global_half.is_dir():
        raise RunError(f"{folder} holds no uploads or no global model: the run has not finished, or failed")
    if gone := deletions(run.root):
        raise RunError(f"{folder} cannot be attacked any more: {gone[0].words}")
    if any(spool.manifest.number is None for spool in spools):
        raise RunError(
            f"{folder} is of a deployment: its clean images stay at the sites, and without them nobody can "
            "say whether an attack was right. Attack a simulation with the same settings"
        )
    use_threads(config.threads)
    images = load_images(config)
    chosen = choose_device(device)
    clients = tuple(_read_client(run, spool, images, chosen) for spool in spools)
    agreement = _agreement(run, config, clients[0].number, images)
    return Artefacts(
        folder=run.root,
        config=config,
        agreement=agreement,
        mechanism=_mechanism(agreement),
        images=images,
        global_half=Denoiser.from_pretrained(run.global_half, chosen),
        clients=clients,
        device=chosen,
    )


def _read_config(run: RunFolder) -> RunConfig:
    try:
        return RunConfig.parse(json.loads((run.root / "config.json").read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{run.root} has no readable config.json; give the folder that a run printed as its run folder"
        ) from error


def _agreement(run: RunFolder, config: RunConfig, number: int, images: RunImages) -> Agreement:
    """Return what was agreed, and make sure that the images loaded now are those of the run."""
    agreed = Agreement.load(run.client(number) / "state" / "agreement")
    now = propose(config, images.public)
    if agreed.mechanism != now.mechanism or not np.array_equal(agreed.centre, now.centre):
        raise DataError(
            f'data = "{config.data}" is not what it was when {run.root} was run: centre or clip norm of its '
            "public images have changed. Attacks need the run's own images"
        )
    return agreed


def _mechanism(agreement: Agreement) -> Mechanism:
    found = agreement.mechanism
    schedule = NoiseSchedule(found.schedule, found.diffusion_steps)
    return Mechanism(found.t0, found.alpha_bar, found.clip, agreement.centre, found.delta, schedule)


def _read_client(run: RunFolder, spool: Spool, images: RunImages, device: torch.device) -> ClientArtefacts:
    number = spool.manifest.number or 0  # never absent: checked before
    folder = run.client(number)
    uploads, labels = spool.read()
    samples = {name: load_samples(folder, name) for name in SAMPLES}
    return ClientArtefacts(
        name=spool.manifest.site,
        number=number,
        train=images.clients[number],
        uploads=uploads,
        labels=labels,
        rows=_rows(folder / "state" / "release", images, number, labels),
        personal=Denoiser.from_pretrained(folder / "state" / "personal", device),
        samples={name: found for name, found in samples.items() if found is not None},
    )


def _rows(folder: Path, images: RunImages, number: int, labels: torch.Tensor) -> NDArray[np.int64] | None:
    """Return which image each upload is of, as the client's ledger knows; ``None`` when it does not."""
    try:
        rows = images_of_rows(folder, images.digests[number])
    except PrivacyError:
        return None  # a run of an earlier version: its release kept no order
    if not torch.equal(images.clients[number].labels[torch.from_numpy(rows)], labels):
        raise DataError(
            f"{folder}: the classes of the uploads are not those of the images that they were made from; "
            "the run's data have changed"
        )
    return rows
