"""From the result files of a sweep to one row for each of its points: means and spreads over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedpdiff.errors import RunError
from fedpdiff.privacy.statement import per_pixel_statement
from fedpdiff.report.run_files import RunFiles, own_column
from fedpdiff.report.sweep_gap import BOUNDS, Run, agree, gap_closed, over_clients
from fedpdiff.report.wording import epsilon
from fedpdiff.results import Group, GroupScores, Method

PLAN = "sweep.json"
VARIANT = "variant"
"""What a point has beside settings: a name for several of them."""
BUDGETS = ("epsilon", "t0")
"""Settings that PFDM's uploads depend on, and no bound."""
GROUPS: tuple[Group, ...] = ("minority", "majority")
_SCORED: tuple[Group, ...] = (*GROUPS, "absent")


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with its standard deviation; None of one seed."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Row:
    """One point of the sweep.

    Attributes
    ----------
    point
        Setting -> value, as far as this point has it.
    method, title
        The method that ran, or one of the two bounds that PFDM's runs have themselves.
    column
        Name of its scores and samples in these runs.
    runs
        Those that finished, by seed.
    scores
        (group, metric) -> mean over clients, then mean and spread over seeds.
    oracle
        The same of the oracle hand-off of PFDM's runs.
    gap_closed
        Share of the way from local-only to centralised; None of these two, and where it would be a ratio to
        noise.
    epsilon
        The largest of PFDM's runs; None elsewhere.
    bytes_up, bytes_down, client_steps, server_steps, evaluations
        The most of any client, over all runs.
    server_sees, guarantee
        In words.
    """

    point: dict[str, Any]
    method: str
    title: str
    column: Method
    runs: list[Run]
    scores: dict[tuple[Group, str], Spread]
    oracle: dict[tuple[Group, str], Spread]
    gap_closed: float | None
    epsilon: float | None
    bytes_up: int
    bytes_down: int
    client_steps: int
    server_steps: int
    evaluations: int
    server_sees: str
    guarantee: str

    @property
    def seeds(self) -> list[int]:
        """Of the runs that finished."""
        return [run.results.seed for run in self.runs]

    @property
    def minority(self) -> Spread | None:
        """Frechet distance of rare classes."""
        return self.scores.get(("minority", "frechet"))


@dataclass(frozen=True)
class SweepRows:
    """A sweep: what it varied, its rows, and the runs that have no results."""

    description: str
    varied: list[str]
    rows: list[Row]
    unfinished: list[str]

    @property
    def runs(self) -> list[Run]:
        """Every run that has finished."""
        return list({run.name: run for row in self.rows for run in row.runs}.values())

    def comparable(self, row: Row, method: str) -> list[Row]:
        """Return the rows of a method at the same point, as far as their points have the same settings."""
        return [other for other in self.rows if other.method == method and agree(row.point, other.point)]


def read_sweep_rows(folder: Path) -> SweepRows:
    """Read a sweep's folder.

    Raises
    ------
    RunError
        When it is not a sweep's, or no run of it has finished.
    """
    try:
        found = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        planned = [(str(run["name"]), dict(run["point"])) for run in found["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{folder} is not the folder of a sweep (no readable {PLAN})") from None
    done = [(name, point) for name, point in planned if (folder / name / "results.json").is_file()]
    if not done:
        raise RunError(f"no run of the sweep in {folder} has finished")
    runs = [Run(name, point, RunFiles.read(folder / name)) for name, point in done]
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(json.dumps(run.point), []).append(run)
    rows = [_row(sorted(some, key=lambda run: run.results.seed), runs) for some in together.values()]
    rows += _bounds(rows)
    varied = list(dict.fromkeys(key for _, point in planned for key in point))
    unfinished = [name for name, _ in planned if name not in {run.name for run in runs}]
    return SweepRows(str(found.get("description", "")), varied, rows, unfinished)


def _bounds(rows: Sequence[Row]) -> list[Row]:
    """Return the bounds that PFDM's runs have themselves, where the sweep has no runs of them."""
    words = {
        "local-only": (
            "each client's number of images per class",
            "nothing computed from images leaves a client",
        ),
        "centralised": ("everybody's clean images", "none: the images themselves are pooled"),
    }
    found = []
    for row in rows:
        for method, column in BOUNDS.items():
            scores = _scores(row.runs, column) if row.method == "pfdm" else {}
            there = any(other.method == method and agree(row.point, other.point) for other in rows)
            if scores and not there:
                sees, guarantee = words[method]
                found.append(
                    replace(
                        row, method=method, title=method, column=column, scores=scores, oracle={},
                        point={**row.point, **({"method": method} if "method" in row.point else {})},
                        gap_closed=None, epsilon=None, bytes_up=0, bytes_down=0, server_steps=0,
                        server_sees=sees, guarantee=guarantee,
                    )
                )  # fmt: skip
    return _once(found)


def _once(bounds: Sequence[Row]) -> list[Row]:
    """Return the rows of bounds, those that say the same at every budget as one: they do not depend on it."""
    together: dict[str, list[Row]] = {}
    for row in bounds:
        together.setdefault(json.dumps([row.method, _beside_budget(row)]), []).append(row)
    found = []
    for rows in together.values():  # unequal: of other seeds, or in other feature spaces
        same = all(row.scores == rows[0].scores for row in rows)
        found += [replace(rows[0], point=_beside_budget(rows[0]))] if same and len(rows) > 1 else rows
    return found


def _beside_budget(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.point.items() if key not in BUDGETS}


def _row(runs: Sequence[Run], everything: Sequence[Run]) -> Row:
    first = runs[0].results

    def most(of: Callable[[Run], Sequence[int]]) -> int:
        return max((value for run in runs for value in of(run)), default=0)

    epsilons = [run.results.privacy["epsilon"] for run in runs if run.results.privacy.get("epsilon")]
    return Row(
        point=dict(runs[0].point),
        method=first.method,
        title="PFDM" if first.method == "pfdm" else first.method_title,
        column=own_column(first),
        runs=list(runs),
        scores=_scores(runs, own_column(first)),
        oracle=_scores(runs, "oracle") if first.method == "pfdm" else {},
        gap_closed=gap_closed(runs, everything),
        epsilon=max(epsilons) if first.method == "pfdm" and epsilons else None,
        bytes_up=most(lambda run: run.results.bytes_up),
        bytes_down=most(lambda run: run.results.bytes_down),
        client_steps=most(lambda run: run.results.client_steps),
        server_steps=max(run.results.server_steps for run in runs),
        evaluations=first.sampling_evaluations,
        server_sees=first.server_sees,
        guarantee=_guarantee(runs),
    )


def _scores(runs: Sequence[Run], name: Method) -> dict[tuple[Group, str], Spread]:
    scores = {}
    for group in _SCORED:
        for metric in GroupScores.model_fields:
            spread = _spread([over_clients(run.results, group, name, metric) for run in runs])
            if spread is not None:
                scores[group, metric] = spread
    return scores


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _guarantee(runs: Sequence[Run]) -> str:
    """Say what the run with the weakest guarantee states."""
    run = max(runs, key=lambda run: run.results.privacy.get("epsilon") or 0.0)
    privacy = run.results.privacy
    if run.results.release_noise == "seeded" and run.results.method == "pfdm":
        return "NOT PRIVATE: the release noise was seeded"
    if "guarantee" in privacy:
        return str(privacy["guarantee"])
    if privacy.get("epsilon") is None:
        return "none is stated"
    words = (
        f"({epsilon(privacy['epsilon'])}, {privacy['delta']:g})-LDP of one image, its pixels replaced, its "
        "label and the number of images unchanged"
    )
    if run.files.config.get("clip-rule") != "none":
        return words
    pixel = per_pixel_statement(privacy["alpha_bar"], 1.0, privacy["delta"])
    return (
        f"{words}; of one pixel value alone, a far weaker unit, epsilon {epsilon(pixel['epsilon'])} "
        f"({epsilon(pixel['epsilon_theorem_5_1'])} by the paper's formula)"
    )
