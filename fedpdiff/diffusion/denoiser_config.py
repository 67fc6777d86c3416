"""The description of a denoiser: what must be known beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedpdiff.diffusion.chain import Chain, ChainKind, Objective, global_chain, personal_chain
from fedpdiff.diffusion.class_gaussian import ClassGaussian
from fedpdiff.diffusion.linear_gaussian import LinearGaussian
from fedpdiff.schedule import NoiseSchedule

CONFIG_FILE = "denoiser.json"


class DenoiserConfig(BaseModel):
    """What must be known beside the weights to sample with a denoiser.

    Attributes
    ----------
    format
        ``/2`` had no ``guidance_scale``.
    t0
        Level of the uploads.
    hand_off
        Level at which the personal half takes over; below t0 only where the global half has a base.
    last
        Highest level the personal half was trained on (T or t0); for the global half always T.
    clip
        Radius that uploads were clipped to around the centre.
    clip_flag, clip_flag_switch
        Whether the network takes a clipped/unclipped flag, and below which share of t0 sampling says
        "unclipped" (PFDM's clip-mixing).
    base
        ``"gaussian"``. Of a global half: the network learns what it adds to a :class:`LinearGaussian`, which
        stands alone at levels that the network was not trained on. Of a personal half: a
        :class:`ClassGaussian` of the client's images stands for the network above the hand-off.
    release_noise
        Noise of the uploads; ``seeded`` is for simulations and NOT PRIVATE.
    hidden_label
        Whether the network was also trained without labels; the last condition then stands for none.
    guidance_scale
        How far sampling moves a personal network's output away from what it says without the label
        (classifier-free guidance, Ho and Salimans 2022); 1: not at all.
    unseen
        Classes of which the network was trained on no image: their label is hidden from it, so that it
        finishes what it is handed with what it knows of the others; a base stands for it down to low levels.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    format: Literal["fedpdiff-denoiser/3", "fedpdiff-denoiser/2"] = "fedpdiff-denoiser/3"
    kind: ChainKind
    objective: Objective
    schedule: str
    diffusion_steps: int = Field(ge=1, le=10_000)
    t0: int = Field(ge=1)
    hand_off: int = Field(ge=1)
    last: int = Field(ge=1)
    class_names: list[str] = Field(min_length=1)
    image_shape: list[int] = Field(min_length=3, max_length=3)
    clip: float = Field(gt=0)
    clip_flag: bool = False
    clip_flag_switch: float = Field(default=1.0, ge=0, le=1)
    hidden_label: bool = False
    guidance_scale: float = Field(default=1.0, ge=1, le=20)
    base: Literal["none", "gaussian"] = "none"
    unseen: list[int] = []
    release_noise: Literal["secure", "seeded"] = "secure"

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        if max(self.t0, self.last, self.hand_off) > self.diffusion_steps:
            raise ValueError(
                f"t0 = {self.t0}, hand_off = {self.hand_off} and last = {self.last} must be at most "
                f"diffusion_steps = {self.diffusion_steps}"
            )
        if self.kind != "personal" and self.base == "none" and self.hand_off < self.t0:
            raise ValueError(f"hand_off = {self.hand_off} must be at least t0 = {self.t0} without a base")
        if self.base == "gaussian" and self.kind != "personal" and self.objective != "ambient":
            raise ValueError("base = 'gaussian' of a global half is for objective = 'ambient'")
        if self.kind == "personal" and self.objective == "ambient":
            raise ValueError("objective = 'ambient' is for uploads; a personal half learns noise or velocity")
        if self.guidance_scale != 1 and not (self.kind == "personal" and self.hidden_label):
            raise ValueError("guidance_scale is for a personal half trained with hidden_label")
        if self.guidance_scale != 1 and self.clip_flag:
            raise ValueError("guidance_scale with clip_flag: hiding the label would hide the flag as well")
        if self.unseen and not self.hidden_label:
            raise ValueError("unseen: labels can be hidden only from a network trained with hidden_label")
        return self

    @classmethod
    def read(cls, folder: Path) -> DenoiserConfig:
        """Read the description of the denoiser in a folder.

        Raises
        ------
        OSError, ValueError
            When it cannot be read, or is none.
        """
        return cls.model_validate(json.loads((folder / CONFIG_FILE).read_text("utf-8")))

    @property
    def conditions(self) -> int:
        """Number of values of the network's conditioning label."""
        return len(self.class_names) * (2 if self.clip_flag else 1) + int(self.hidden_label)

    def empty_base(self) -> LinearGaussian | ClassGaussian | None:
        """Return the base with moments yet to be estimated or loaded; None where there is none."""
        if self.base == "none":
            return None
        channels, height, width = self.image_shape
        kind = ClassGaussian if self.kind == "personal" else LinearGaussian
        return kind(len(self.class_names), (channels, height, width))

    def chain(self) -> Chain:
        """Return the diffusion process of this denoiser."""
        schedule = NoiseSchedule(self.schedule, self.diffusion_steps)
        if self.kind == "personal":
            return personal_chain(schedule, self.last, self.objective)
        return global_chain(schedule, self.t0, self.kind, self.objective)
