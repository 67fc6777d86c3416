"""Choosing a budget for one data set: what candidate epsilons leave of its images, and what runs made of it.

Everything is computed from the public images, the numbers of images that clients would have, and finished
runs; no private image is decoded, except to look for those of ``site`` among the public ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedpdiff.config import RunConfig
from fedpdiff.data.images import to_labelled_images
from fedpdiff.data.overlap import count_shared
from fedpdiff.data.partition import divide
from fedpdiff.data.source import load_site, load_source
from fedpdiff.data.splits import split_site, split_source
from fedpdiff.errors import ConfigError
from fedpdiff.federation.agreement import hand_off_level, public_ball
from fedpdiff.federation.frontier_runs import read_run
from fedpdiff.privacy import mechanism
from fedpdiff.privacy.cautions import Caution, ball_cautions, budget_cautions
from fedpdiff.privacy.frontier import Trial, curve, frontier
from fedpdiff.privacy.statement import ADJACENCY, UNIT
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages, concatenate


@dataclass(frozen=True)
class Survey:
    """What the choice rests on.

    Parameters
    ----------
    public
        The public images.
    trial
        Mechanism facts that follow from them.
    clipped
        Share of the public images that are clipped; ``None`` without public images.
    images
        Images of the client that has most.
    site_images
        Images that the site looked into would release; ``None`` without one.
    shared
        How many public images are among all its images.
    """

    public: LabelledImages
    trial: Trial
    clipped: float | None
    images: int
    site_images: int | None
    shared: int

    @classmethod
    def of(cls, config: RunConfig, images: int | None, site: str | None) -> Survey:
        """Read the data set of the settings and, where given, a site's images; see :func:`choose`.

        Raises
        ------
        DataError, PrivacyError
            When the data cannot be read or divided, or a public rule has no public images.
        """
        splits = split_source(load_source(config), config)
        public = to_labelled_images(splits.public, config)
        centre, clip = public_ball(config, public)
        alpha_bar = NoiseSchedule(config.schedule, config.diffusion_steps).alpha_bar
        power, clipped = clip * clip, None
        if len(public):
            pixels = public.pixels().numpy()
            power = float(np.square(mechanism.clip(pixels, centre, clip)).sum(axis=(1, 2, 3)).mean())
            clipped = float((np.square(pixels - centre).sum(axis=(1, 2, 3)) > clip * clip).mean())
        trial = Trial(alpha_bar, config.schedule, clip, config.delta, power)
        released, private = _site_images(config, site) if site else (None, None)
        count = images or released or max(map(len, divide(splits.private, config)))
        shared = count_shared(public, private) if private else 0
        return cls(public, trial, clipped, count, released, shared)


def choose(
    config: RunConfig,
    epsilons: Sequence[float],
    images: int | None = None,
    site: str | None = None,
    runs: Sequence[Path] = (),
) -> dict[str, Any]:
    """Return table and curve for candidate budgets, as ``fedpdiff privacy --frontier --json`` prints them.

    Parameters
    ----------
    config
        Settings of the run that is planned; ``epsilon`` and ``t0`` do not matter.
    epsilons
        Candidates, each above 0. Budgets of ``runs`` are added.
    images
        Images of the client that has most; by default as the settings divide the data.
    site
        Folder of a client's private images: counted, and looked for among the public images.
    runs
        Folders of finished runs with these settings.

    Raises
    ------
    ConfigError, DataError, PrivacyError, RunError
        When a setting, the data or a run folder does not fit.
    """
    survey = Survey.of(config, images, site)
    found = [read_run(folder, config) for folder in runs]
    rows = frontier(survey.trial, [*epsilons, *(run["budget"] for run in found)])
    for row in rows:
        _complete(row, config, found)
    reachable = [row["epsilon"] for row in rows if "epsilon" in row]
    return {
        "unit": UNIT,
        "adjacency": ADJACENCY,
        "data": config.data,
        "image_shape": list(config.image_shape),
        "centre": config.centre,
        "clip_rule": config.clip_rule,
        "clip": survey.trial.clip,
        "clipped": survey.clipped,
        "signal_power": survey.trial.signal_power,
        "public_images": len(survey.public),
        "images": survey.images,
        "delta": config.delta,
        "schedule": config.schedule,
        "diffusion_steps": config.diffusion_steps,
        "rows": rows,
        "curve": curve(survey.trial, min(reachable) / 1.5, max(reachable) * 2.2) if reachable else [],
        "cautions": [str(caution) for caution in _cautions(config, survey)],
        "checked": _checked(survey),
    }


def _complete(row: dict[str, Any], config: RunConfig, found: list[dict[str, Any]]) -> None:
    """Add to a row what the settings and the runs say about it."""
    row["runs"] = [run for run in found if run["budget"] == row["budget"]]
    row["notes"] = []
    if "unreachable" in row:
        row["notes"].append(f"not reached: {row['unreachable']}")
        return
    try:
        hand_off_level(config, row["t0"])
    except ConfigError as error:
        row["notes"].append(f"a run would be refused: {error}")


def _cautions(config: RunConfig, survey: Survey) -> list[Caution]:
    """Return what holds for all rows alike."""
    cautions = [c for c in budget_cautions(0.0, config.delta, survey.images) if c.subject == "delta"]
    cautions += ball_cautions(config)
    if survey.shared:
        cautions.append(
            Caution(
                "ball",
                f"{survey.shared} of the {len(survey.public)} public images are among the images of --site: "
                "centre and C were derived from private data and leak outside epsilon. Take other public "
                "images or constants.",
            )
        )
    return cautions


def _checked(survey: Survey) -> str | None:
    """Say what the comparison with a site's images has shown, and what it cannot show."""
    if survey.site_images is None or survey.shared:
        return None
    return (
        f"none of the {len(survey.public)} public images is one of --site (the same picture, also saved "
        "again); crops, flips and other pictures of the same person would not be found. The site would "
        f"release {survey.site_images} images."
    )


def _site_images(config: RunConfig, site: str) -> tuple[int, LabelledImages]:
    """Return how many images the site would release, and all its images, for comparison."""
    train, test = split_site(load_site(config, str(Path(site).expanduser().absolute())), config.test_fraction)
    parts = [to_labelled_images(part, config, f'--site "{site}"') for part in (train, test)]
    return len(train), concatenate(parts)
