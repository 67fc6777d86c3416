"""What a client has sampled and judged already, so that an instruction that comes twice is done once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedpdiff.config import RunConfig
from fedpdiff.runfolder import MAY_CHANGE, ClientFolder, write_json

_DECIDE_NOTHING = {key.replace("-", "_") for key in MAY_CHANGE}


def deciding_settings(config: RunConfig) -> str:
    """Return all settings as JSON but those that say where and in what time a run is done."""
    return config.model_dump_json(exclude=_DECIDE_NOTHING)


def ingredients_digest(config: RunConfig, agreement: Path | None, arrays: Mapping[str, np.ndarray]) -> str:
    """Return a SHA-256 (hex) of settings, agreed mechanism and arrays.

    Parameters
    ----------
    config
        The run's settings.
    agreement
        Folder of the agreement; None in a run without releases.
    arrays
        All weights and images that samples and scores follow from, by name.
    """
    digest = hashlib.sha256(deciding_settings(config).encode())
    if agreement is not None:
        digest.update((agreement / "mechanism.json").read_bytes())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(hashlib.sha256(array.tobytes()).digest())
    return digest.hexdigest()


def read_scores(folder: ClientFolder, ingredients: str) -> dict[str, float] | None:
    """Return the scores of samples that were drawn from these ingredients; None when none are there."""
    if not folder.samples.is_dir():
        return None
    try:
        found = json.loads(folder.sampled.read_text("utf-8"))
        scores = json.loads(folder.scores.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return dict(scores) if found == {"ingredients": ingredients} else None


def write_scores(folder: ClientFolder, ingredients: str, scores: Mapping[str, float]) -> None:
    """Write the scores, and then what the samples beside them were drawn from."""
    folder.sampled.unlink(missing_ok=True)
    write_json(folder.scores, scores)
    write_json(folder.sampled, {"ingredients": ingredients})
