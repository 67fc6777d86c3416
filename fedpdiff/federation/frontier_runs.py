"""What finished runs measured, to stand beside the budgets they were run with."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from fedpdiff.config import RunConfig
from fedpdiff.errors import ConfigError, RunError
from fedpdiff.results import Method, Results

# Settings that decide what the rows mean: a run may stand beside a row only where it has the same.
_MUST_AGREE = (
    *("data", "data-transform", "classes", "image-size", "channels", "fit", "max-images"),
    *("public-fraction", "test-fraction", "clients", "partitioner", "partitioner-settings"),
    *("delta", "centre", "clip-rule", "clip", "schedule", "diffusion-steps"),
)


def read_run(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Return what a finished run measured at its budget.

    Returns
    -------
    dict
        ``folder``, ``budget`` (the epsilon that was asked for, or that its t0 gave), ``seed``,
        ``feature_space`` and ``minority``: the Frechet distances ``local`` and ``pfdm`` over the minority
        classes, each the mean over the clients, or None where a client has none.

    Raises
    ------
    RunError
        When the folder holds no finished run, or one of other data, another division or another mechanism.
    """
    results = Results.read(folder)
    path = folder / "config.json"
    try:
        settings = RunConfig.parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError) as error:
        raise RunError(f"{path} cannot be read as settings ({error}); it belongs to a run folder") from error
    ours, theirs = config.flat(), settings.flat()
    other = [key for key in _MUST_AGREE if ours[key] != theirs[key]]
    if other:
        differences = ", ".join(f"{key} = {theirs[key]!r} there, {ours[key]!r} here" for key in other)
        raise RunError(f"{folder} is a run with other settings ({differences}); change them with --set")
    return {
        "folder": str(folder),
        "budget": settings.epsilon or results.privacy["epsilon"],
        "seed": results.seed,
        "feature_space": results.feature_space,
        "minority": {"local": _mean_distance(results, "local"), "pfdm": _mean_distance(results, "pfdm")},
    }


def _mean_distance(results: Results, method: Method) -> float | None:
    distances = [client.frechet("minority", method) for client in results.clients]
    known = [distance for distance in distances if distance is not None]
    return statistics.fmean(known) if known and len(known) == len(distances) else None
