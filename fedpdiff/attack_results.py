"""``attacks.json``: what the attacks on a run found, in a documented and stable form (docs/attacks.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpdiff.errors import RunError
from fedpdiff.runfolder import write_json

FORMAT_VERSION: Final = 1
FILE_NAME = "attacks.json"
RECOVERED_FILE = "attacks/recovered.npz"

Share = Annotated[float, Field(ge=0, le=1)]


def percent(value: float, decimals: int = 1) -> str:
    """Write a share as a percentage."""
    return f"{100 * value:.{decimals}f} %"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(_Model):
    """A measured share or probability with its 95 % confidence interval."""

    value: Share
    low: Share
    high: Share


class LowFalsePositives(_Model):
    """True-positive rate at a nominal false-positive rate; ``tpr`` is null where it is not meaningful."""

    fpr: Share
    tpr: Interval | None
    cap: Share | None = None


class Curve(_Model):
    """A ROC curve."""

    fpr: list[float]
    tpr: list[float]


class Membership(_Model):
    """One membership attack on one target.

    ``protected``: whether the guarantee covers the target; only then are there caps. ``works``: whether the
    same attack reached an AUC above 0.9 on the overfitted control; null where another control covers it.
    """

    target: str
    client: str | None
    protected: bool
    attack: str
    setting: str
    works: bool | None
    members: int = Field(ge=1)
    non_members: int = Field(ge=1)
    auc: Interval
    auc_cap: Share | None = None
    balanced_accuracy: Share
    balanced_accuracy_cap: Share | None = None
    at_low_fpr: list[LowFalsePositives]
    curve: Curve


class MemorisationRow(_Model):
    """Copies of training images among generated ones; baselines are those of held-out images."""

    target: str
    client: str | None
    classes: str
    space: str
    generated: int
    references: int
    closer_to_train: Interval
    closer_p_value: Share
    rank_p_value: Share
    carlini: Share
    carlini_held_out: Share
    nearest_ratio: Share
    nearest_ratio_held_out: Share


class Reidentification(_Model):
    """How often an upload was matched to its own image among candidates.

    ``uploads``: ``sent`` (this run's) or ``made for the attack`` (the same mechanism on the same images).
    """

    t0: int
    epsilon: float
    uploads: Literal["sent", "made for the attack"]
    gallery: str
    candidates: float = Field(ge=1)
    rate: Interval
    chance: Share
    cap: Share


class Recovery(_Model):
    """How well one attack rebuilt clipped images from uploads.

    ``score`` = E|estimate - truth|^2 / E|guess - truth|^2 with the best guess without the upload: 0 perfect,
    1 nothing gained, above 1 worse than the guess. ``trusted``: the same once the attacker has learnt, on its
    own images, how far to trust its estimates; ``unclipped``: of the unclipped images, each estimate scaled
    to come nearest.
    """

    t0: int
    epsilon: float
    uploads: Literal["sent", "made for the attack"]
    attacker: str
    attack: str
    images: int
    score: float = Field(ge=0)
    standard_error: float = Field(ge=0)
    trusted: float = Field(ge=0)
    unclipped: float = Field(ge=0)
    psnr: float
    ssim: float
    reidentified: Interval
    chance: Share


class Attribute(_Model):
    """How often an attribute was read rightly from one upload."""

    t0: int
    epsilon: float
    uploads: Literal["sent", "made for the attack"]
    attribute: str
    values: int
    reader: str
    accuracy: Interval
    chance: Share
    cap: Share


class Epsilon(_Model):
    """Epsilon as measured, beside the theory of what was measured.

    ``low`` is null where nothing could be concluded, ``high`` where there is no upper end.
    """

    source: str
    assumption: str
    theory: float
    low: float | None
    high: float | None
    confidence: float


class Control(_Model):
    """A target that every working attack must defeat."""

    name: str
    what: str
    measured: str
    needed: str
    passed: bool


class AttackResults(_Model):
    """Everything in ``attacks.json``; see docs/attacks.md.

    ``verdict`` is null unless every control passed: the numbers then prove nothing. ``exceeded`` lists what
    lies above its theoretical cap beyond chance, which means a mistake in the release or its accounting.
    """

    format_version: Literal[1] = FORMAT_VERSION
    created: str
    software: str
    seconds: dict[str, float]
    privacy: dict[str, Any]
    release_noise: Literal["secure", "seeded"]
    controls: list[Control]
    verdict: list[str] | None
    exceeded: list[str]
    membership: list[Membership]
    memorisation: list[MemorisationRow]
    reidentification: list[Reidentification]
    recovery: list[Recovery]
    attributes: list[Attribute]
    epsilon: list[Epsilon]
    notes: list[str]

    @property
    def controls_work(self) -> bool:
        """Whether every control was defeated, so that the other numbers mean something."""
        return bool(self.controls) and all(control.passed for control in self.controls)

    def write(self, run_dir: Path) -> Path:
        """Write ``attacks.json`` into the run folder, whole or not at all."""
        path = Path(run_dir) / FILE_NAME
        write_json(path, self.model_dump(mode="json"))
        return path

    @classmethod
    def read(cls, run_dir: Path) -> AttackResults | None:
        """Read the file of a run folder; ``None`` where there is none.

        Raises
        ------
        RunError
            When the file is not of this format.
        """
        path = Path(run_dir) / FILE_NAME
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except (ValidationError, json.JSONDecodeError) as error:
            raise RunError(
                f"{path} is not of attacks format {FORMAT_VERSION}; run fedpdiff attack again ({error})"
            ) from error
