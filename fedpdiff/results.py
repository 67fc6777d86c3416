"""``results.json``: what a run measured, in a documented and stable form (docs/results.md)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fedpdiff.errors import RunError
from fedpdiff.runfolder import check_format, write_json

FORMAT_VERSION: Final = 1
FILE_NAME = "results.json"

# local, pfdm, oracle, centralised, real, or the name of another method
Method = Annotated[str, StringConstraints(pattern=r"^[a-z0-9+-]{1,40}$")]
Group = Literal["majority", "minority", "absent"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GroupScores(_Model):
    """The metrics of one set of images against real test images; ``None`` where too few images allow none.

    Parameters
    ----------
    frechet
        Frechet distance, at least 0, lower is better.
    precision, recall
        Improved precision and recall, 0 .. 1, higher is better.
    accuracy
        Share of images recognised as the wanted class, 0 .. 1, higher is better.
    kid
        Kernel distance (KID), about 0 and up, lower is better.
    utility
        Share of real test images recognised by a classifier that was trained on these images alone, 0 .. 1.
    utility_added
        The same when they were added to the client's own training images.
    """

    frechet: float | None = Field(default=None, ge=0)
    precision: float | None = Field(default=None, ge=0, le=1)
    recall: float | None = Field(default=None, ge=0, le=1)
    accuracy: float | None = Field(default=None, ge=0, le=1)
    kid: float | None = Field(default=None, ge=-1e12, le=1e12)
    utility: float | None = Field(default=None, ge=0, le=1)
    utility_added: float | None = Field(default=None, ge=0, le=1)


class ClientResults(_Model):
    """One client's scores: group of classes -> method -> metrics.

    The method ``own`` is the client's own training images, of which there is the utility alone.
    """

    client: int = Field(ge=0)
    name: str
    classes: dict[Group, list[int]] = {}
    groups: dict[Group, dict[Method, GroupScores]] = {}

    def frechet(self, group: Group, method: Method) -> float | None:
        """Return one Frechet distance; ``None`` where the run has none."""
        return self.groups.get(group, {}).get(method, GroupScores()).frechet


class Refusal(_Model):
    """A site that was left out: in which phase, and why."""

    site: str
    phase: str
    reason: str


class ParticipantList(_Model):
    """``participants.json``: who takes part and who was left out, kept up to date while a run goes on."""

    format_version: Literal[1] = FORMAT_VERSION
    participants: list[str] = []
    refused: list[Refusal] = []

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> ParticipantList:
        """Read the list; without the file, because the run failed before anybody came, it is empty.

        Raises
        ------
        RunError
            When the file is damaged.
        """
        if not path.is_file():
            return cls()
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except ValueError:
            raise RunError(f"{path} is damaged; delete it to report without it") from None


class CertificateSummary(_Model):
    """What one pooled upload is certified to guarantee; ``None`` where there is no certificate.

    Parameters
    ----------
    site, images
        Whose upload, and how many images it holds.
    epsilon, delta
        Of one noisy copy of an image, as certified.
    noisings, epsilon_total
        Noisy copies of one image that the site ever made, at most, and epsilon of all of them together.
    most_images_of_a_person, epsilon_of_that_person
        Over all that the site ever released; ``None`` also where the site does not count persons.
    sha256
        Of the exact release, as the certificate names it.
    verified
        Whether everything in the certificate follows from its settings and the server holds the bytes that it
        is about.
    """

    site: str
    images: int = Field(ge=1)
    epsilon: float | None = Field(default=None, ge=0)
    delta: float | None = Field(default=None, gt=0, lt=1)
    noisings: int | None = Field(default=None, ge=1)
    epsilon_total: float | None = Field(default=None, ge=0)
    most_images_of_a_person: int | None = Field(default=None, ge=1)
    epsilon_of_that_person: float | None = Field(default=None, ge=0)
    sha256: str | None = None
    verified: bool


class Results(_Model):
    """Everything in ``results.json``; lists per client stand in the order of ``clients``.

    ``gap_closed`` is the headline, per client over its minority classes:
    (local - PFDM) / (local - centralised) of the Frechet distances; ``None`` where the denominator is not
    above ``gap_spread``, the standard deviation of that denominator over ``gap_spread_over``.
    """

    format_version: Literal[1] = FORMAT_VERSION
    method: str = "pfdm"
    method_title: str = "PFDM"
    server_sees: str = ""
    seed: int
    release_noise: Literal["secure", "seeded"]
    privacy: dict[str, Any]
    feature_space: str
    class_names: list[str]
    clients: list[ClientResults]
    gap_closed: list[float | None]
    gap_closed_mean: float | None
    gap_spread: list[float | None]
    gap_spread_over: Literal["images", "seeds"] = "images"
    bytes_up: list[int]
    bytes_down: list[int]
    bytes_between_servers: int = 0
    client_steps: list[int] = []
    server_steps: int = 0
    sampling_evaluations: int = 0
    seconds: dict[str, float]
    participants: list[str] = []
    refused: list[Refusal] = []
    certificates: list[CertificateSummary] = []
    notes: list[str] = []

    def write(self, run_dir: Path) -> Path:
        """Write ``results.json`` into the run folder, whole or not at all."""
        path = Path(run_dir) / FILE_NAME
        write_json(path, self.model_dump(mode="json"))
        return path

    @classmethod
    def read(cls, run_dir: Path) -> Results:
        """Read the results of a run folder.

        Raises
        ------
        RunError
            When the file is missing (naming what is there), or file or folder are of another format.
        """
        check_format(Path(run_dir))
        path = Path(run_dir) / FILE_NAME
        if not path.is_file():
            raise RunError(f"{run_dir} has no {FILE_NAME}, so {_what_is_there(Path(run_dir))}")
        try:
            return cls.model_validate_json(path.read_text())
        except (ValidationError, json.JSONDecodeError) as error:
            raise RunError(f"{path} is not of results format {FORMAT_VERSION}: {error}") from error


def gap_closed(client: ClientResults, spread: float | None) -> float | None:
    """Return the minority gap that PFDM closes: (local - PFDM) / (local - centralised).

    Parameters
    ----------
    client
        Scores of one client.
    spread
        Standard deviation of the denominator over images or seeds; ``None`` where unknown.

    Returns
    -------
    float or None
        1: as good as training on everybody's clean images; 0: no better than alone; negative: worse than
        alone. ``None`` where a distance is missing, the spread is unknown or the denominator is not above
        it: a ratio to noise says nothing.
    """
    local, pfdm = client.frechet("minority", "local"), client.frechet("minority", "pfdm")
    centralised = client.frechet("minority", "centralised")
    if local is None or pfdm is None or centralised is None or spread is None:
        return None
    if local - centralised <= spread:
        return None
    return (local - pfdm) / (local - centralised)


def mean_gap(gaps: list[float | None]) -> float | None:
    """Return the mean over the clients that have a number; ``None`` when none has."""
    known = [gap for gap in gaps if gap is not None]
    return statistics.fmean(known) if known else None


def _what_is_there(run_dir: Path) -> str:
    if not run_dir.is_dir():
        return "there is no such folder; give the folder that a run printed as its run folder"
    names = sorted(entry.name for entry in run_dir.iterdir())
    if not names:
        return "and is empty; give the folder that a run printed as its run folder"
    if (run_dir / "error.txt").is_file():
        return "the run did not finish; error.txt says why"
    return f"the run has not finished, or this is no run folder; it holds {', '.join(names[:12])}"
