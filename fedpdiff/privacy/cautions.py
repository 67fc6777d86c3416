"""What is wrong with a privacy budget, or cannot be known about it: one list, for every place that shows one.

The command line, the start of a simulation, the server's log and ``results.json`` all take it from here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from pathlib import Path
from typing import Literal

from fedpdiff.config import RunConfig

Subject = Literal["epsilon", "delta", "noise", "ball"]

EMPTY_EPSILON = 20.0  # the odds of an outcome may then change by e^20, half a billion
_USUAL_DELTA = 1e-4  # without a number of images: more than this suits fewer than 1,000 of them
_EMBEDDED = "digits"
_PUBLISHED_CLIP = RunConfig().clip  # the paper's constant: chosen before anyone saw the data of this run


@dataclass(frozen=True)
class Caution:
    """One thing that a person who chooses or reads a budget should know.

    Parameters
    ----------
    subject
        What it is about.
    text
        One sentence or more, in plain words, without private numbers.
    certain
        Whether it is known to be wrong; if not, only the people who own the data can know.
    """

    subject: Subject
    text: str
    certain: bool = True

    def __str__(self) -> str:
        """Return the line that is printed."""
        return f"{'Warning' if self.certain else 'Only you can know'}: {self.text}"


def budget_cautions(epsilon: float, delta: float, images: int | None = None) -> list[Caution]:
    """Judge the two numbers of a budget.

    Parameters
    ----------
    epsilon
        Of one image, as stated (rounded up).
    delta
        Between 0 and 1.
    images
        Images of the client that has most, where known. delta is a chance per image, so with n images some
        total failure has a chance of up to n delta: at most one in ten is asked for.
    """
    cautions = []
    if epsilon > EMPTY_EPSILON:
        cautions.append(
            Caution(
                "epsilon",
                f"epsilon {epsilon:g} for one image is above {EMPTY_EPSILON:g}: as a worst-case guarantee "
                "it is nearly empty.",
            )
        )
    if images is not None and delta * 10 * images > 1 + 1e-9:
        cautions.append(
            Caution(
                "delta",
                f"delta {delta:g} is above 1 / (10 x {images:,} images of one client): set delta to at most "
                f"{delta_limit(images):g}.",
            )
        )
    elif images is None and delta > _USUAL_DELTA:
        cautions.append(
            Caution("delta", f"delta {delta:g} is large: keep it below 1 / (10 x number of images).")
        )
    return cautions


def delta_limit(images: int) -> float:
    """Return 1 / (10 images) with two digits, never more than it is; ``images`` at least 1."""
    return float(Context(prec=2, rounding=ROUND_FLOOR).create_decimal(Decimal(1) / (10 * images)))


def ball_cautions(config: RunConfig) -> list[Caution]:
    """Judge where the centre and the radius C of the clipping ball come from.

    Both are told to everyone and epsilon does not pay for them, so they must not depend on private images. A
    constant does not; the embedded digits are published. For anything else this program sees a path or a
    number and cannot know whose it is: it says so.
    """
    cautions = []
    public = [
        name
        for name, rule in (("centre", config.centre), ("clip-rule", config.clip_rule))
        if rule.startswith("public-")
    ]
    if public and config.data != _EMBEDDED:
        what = "a local path" if Path(config.data).expanduser().exists() else "read from outside"
        cautions.append(
            Caution(
                "ball",
                f'{100 * config.public_fraction:g} % of data = "{config.data}" ({what}) are used as public '
                f"images, for {' and '.join(public)}. If a client's private images are among them, they leak "
                "outside epsilon: take other images or constants (centre = none, clip-rule = fixed).",
                certain=False,
            )
        )
    if config.clip_rule == "fixed" and not math.isclose(config.clip, _PUBLISHED_CLIP):
        cautions.append(
            Caution(
                "ball",
                f"clip = {config.clip:g} was given by hand. If it was measured on private images, it leaks "
                "outside epsilon: take a constant from elsewhere.",
                certain=False,
            )
        )
    return cautions


def run_cautions(config: RunConfig, epsilon: float, images: int | None = None) -> list[Caution]:
    """Return every caution about a run of these settings.

    Parameters
    ----------
    config
        Its settings.
    epsilon
        What its mechanism gives for one image, rounded up.
    images
        Images of the client that has most, where known.
    """
    seeded = [
        Caution(
            "noise",
            'release-noise = "seeded": NOT PRIVATE. Whoever knows the seed can take the noise off; for '
            "simulations only.",
        )
    ]
    return [
        *(seeded if config.release_noise == "seeded" else []),
        *budget_cautions(epsilon, config.delta, images),
        *ball_cautions(config),
    ]
