"""Runs of one sweep compared: mean distances, and the share of the minority gap that a method closes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedpdiff.report.run_files import RunFiles, own_column
from fedpdiff.results import ClientResults, Group, GroupScores, Method, Results
from fedpdiff.results import gap_closed as gap_of_client

Bound = Literal["local-only", "centralised"]
BOUNDS: dict[Bound, Method] = {"local-only": "local", "centralised": "centralised"}
"""The methods between which the gap lies, and what PFDM's own runs call them."""


@dataclass(frozen=True)
class Run:
    """One finished run of a sweep: its folder's name, its point, its files."""

    name: str
    point: Mapping[str, Any]
    files: RunFiles

    @property
    def results(self) -> Results:
        """What it measured."""
        return self.files.results


def agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two points have the same values of every setting but the method that both have."""
    return all(one[key] == other[key] for key in set(one) & set(other) if key != "method")


def over_clients(results: Results, group: Group, name: Method, metric: str) -> float | None:
    """Return the mean of a score over clients; None where a client that has the group lacks the number."""
    scores = [client.groups[group].get(name) for client in results.clients if group in client.groups]
    values = [None if score is None else getattr(score, metric) for score in scores]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def gap_closed(runs: Sequence[Run], everything: Sequence[Run]) -> float | None:
    """Return the share of the minority gap that the runs of one point close, from local-only to centralised.

    Parameters
    ----------
    runs
        Of one point, one per seed.
    everything
        All runs of the sweep. Local-only and centralised of the same seed are taken from here, or where the
        sweep has none, from PFDM's own run.

    Returns
    -------
    float or None
        Of the means over clients and seeds. None for the two bounds themselves, where one of them is missing,
        and where the gap is not above its spread over seeds (or, of one seed, over images).
    """
    if runs[0].results.method in BOUNDS:
        return None
    triples = [_distances(run, everything) for run in runs]
    known = [triple for triple in triples if triple is not None]
    if len(known) < len(triples):
        return None
    local, own, centralised = (statistics.fmean(values) for values in zip(*known, strict=True))
    scores = {
        name: GroupScores(frechet=value)
        for name, value in (("local", local), ("pfdm", own), ("centralised", centralised))
    }
    averaged = ClientResults(client=0, name="all", groups={"minority": scores})
    return gap_of_client(averaged, _spread(runs, [triple[0] - triple[2] for triple in known]))


def _spread(runs: Sequence[Run], gaps: Sequence[float]) -> float | None:
    if len(gaps) > 1:
        return statistics.stdev(gaps)
    over_images = [value for value in runs[0].results.gap_spread if value is not None]
    return statistics.fmean(over_images) if over_images else None


def _distances(run: Run, everything: Sequence[Run]) -> tuple[float, float, float] | None:
    """Return the minority distances of local-only, the run itself and centralised."""
    own = _minority(run, own_column(run.results))
    local, centralised = bound(run, "local-only", everything), bound(run, "centralised", everything)
    if local is None or own is None or centralised is None:
        return None
    return local, own, centralised


def bound(run: Run, method: Bound, everything: Sequence[Run]) -> float | None:
    """Return a bound's minority distance: the best one at this point, with this seed, in the same space."""
    found = [
        _minority(other, own_column(other.results))
        for other in counterparts(run, method, everything)
        if other.results.feature_space == run.results.feature_space
    ]
    known = [value for value in found if value is not None]
    return min(known) if known else _minority(run, BOUNDS[method])


def counterparts(run: Run, method: str, everything: Sequence[Run]) -> list[Run]:
    """Return the runs of a method with the seed, the point and as many clients as another run has."""
    return [
        other
        for other in everything
        if other.results.method == method
        and other.results.seed == run.results.seed
        and len(other.results.clients) == len(run.results.clients)
        and agree(run.point, other.point)
    ]


def _minority(run: Run, name: Method) -> float | None:
    return over_clients(run.results, "minority", name, "frechet")
