"""From the result files of a sweep to one row for each point of its grid: means and spreads over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpdiff.errors import RunError
from fedpdiff.results import Group, GroupScores, Method, Results

PLAN = "sweep.json"
_BASELINES: dict[str, Method] = {"local-only": "local"}


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with its standard deviation; None of one seed."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Row:
    """One point of the grid.

    Attributes
    ----------
    point
        Setting -> value.
    method, title
        The method that ran.
    seeds
        Of the runs that finished.
    scores
        (group, metric) -> mean over clients, then mean and spread over seeds.
    gap_closed
        Of PFDM's runs; None elsewhere.
    bytes_up, bytes_down, client_steps, server_steps, evaluations
        The most of any client, over all runs.
    server_sees, guarantee
        In words.
    """

    point: dict[str, Any]
    method: str
    title: str
    seeds: list[int]
    scores: dict[tuple[Group, str], Spread]
    gap_closed: Spread | None
    bytes_up: int
    bytes_down: int
    client_steps: int
    server_steps: int
    evaluations: int
    server_sees: str
    guarantee: str


@dataclass(frozen=True)
class SweepRows:
    """A sweep: what it varied, its rows, and the runs that have no results."""

    description: str
    varied: list[str]
    rows: list[Row]
    unfinished: list[str]


def column(results: Results) -> Method:
    """Return the name under which a run's scores are those of its method."""
    return _BASELINES.get(results.method, results.method)


def read_sweep_rows(folder: Path) -> SweepRows:
    """Read a sweep's folder.

    Raises
    ------
    RunError
        When it is not a sweep's, or no run of it has finished.
    """
    try:
        found = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        grid, names = found["sweep"]["grid"], found["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{folder} is not the folder of a sweep (no readable {PLAN})") from None
    finished = [name for name in names if (folder / name / "results.json").is_file()]
    if not finished:
        raise RunError(f"no run of the sweep in {folder} has finished")
    runs: dict[str, list[tuple[dict[str, Any], Results]]] = {}
    for name in finished:
        config = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        point = {key: config[key] for key in grid}
        runs.setdefault(json.dumps(point), []).append((point, Results.read(folder / name)))
    rows = [_row(together[0][0], [results for _, results in together]) for together in runs.values()]
    unfinished = [name for name in names if name not in finished]
    return SweepRows(found["sweep"].get("description", ""), list(grid), rows, unfinished)


def _row(point: dict[str, Any], runs: Sequence[Results]) -> Row:
    first = runs[0]

    def most(of: Callable[[Results], Sequence[int]]) -> int:
        return max((value for run in runs for value in of(run)), default=0)

    return Row(
        point=point,
        method=first.method,
        title=first.method_title,
        seeds=sorted(run.seed for run in runs),
        scores=_scores(runs),
        gap_closed=_spread([run.gap_closed_mean for run in runs]),
        bytes_up=most(lambda run: run.bytes_up),
        bytes_down=most(lambda run: run.bytes_down),
        client_steps=most(lambda run: run.client_steps),
        server_steps=max(run.server_steps for run in runs),
        evaluations=first.sampling_evaluations,
        server_sees=first.server_sees,
        guarantee=_guarantee(first),
    )


def _scores(runs: Sequence[Results]) -> dict[tuple[Group, str], Spread]:
    scores = {}
    groups: tuple[Group, ...] = ("minority", "majority")
    for group in groups:
        for metric in GroupScores.model_fields:
            spread = _spread([_over_clients(run, group, metric) for run in runs])
            if spread is not None:
                scores[group, metric] = spread
    return scores


def _over_clients(run: Results, group: Group, metric: str) -> float | None:
    name = column(run)
    values = [
        getattr(client.groups[group][name], metric)
        for client in run.clients
        if name in client.groups.get(group, {})
    ]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _guarantee(results: Results) -> str:
    privacy = results.privacy
    if "guarantee" in privacy:
        return str(privacy["guarantee"])
    if privacy.get("epsilon") is None:
        return "none is stated"
    return (
        f"({privacy['epsilon']:.4g}, {privacy['delta']:g})-LDP of one image, its pixels replaced, its label "
        "and the number of images unchanged"
    )
