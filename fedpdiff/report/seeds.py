"""Several runs that differ only in their seed: mean and spread, and the gap judged against that spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from fedpdiff.errors import RunError
from fedpdiff.report.run_files import RunFiles
from fedpdiff.report.table import markdown, shown_methods
from fedpdiff.report.wording import GROUPS, NO_NUMBER, method_title, number, percent
from fedpdiff.results import ClientResults, Group, GroupScores, Method, gap_closed, mean_gap

_MAY_DIFFER = {"seed", "run-dir"}


def seeds_table(run_dirs: Sequence[Path]) -> str:
    """Return the table of mean and standard deviation over runs that differ only in their seed.

    Raises
    ------
    RunError
        When there is one run, two runs share a seed, or the runs differ in another setting or in their
        clients.
    """
    runs = [RunFiles.read(Path(folder)) for folder in run_dirs]
    _check_comparable(runs)
    seeds = [run.results.seed for run in runs]
    methods = shown_methods(runs[0].results)
    rows = [
        ["client", "classes", *(method_title(method, runs[0].results) for method in methods), "gap closed"]
    ]
    gaps = []
    for clients in zip(*(run.results.clients for run in runs), strict=True):
        gap = seed_gap(clients)
        gaps.append(gap)
        for group in GROUPS:
            if group in clients[0].groups:
                cells = [_mean_and_spread(clients, group, method) for method in methods]
                closed = percent(gap) if group == "minority" else ""
                rows.append([clients[0].name, group, *cells, closed])
    lines = [
        *markdown(rows),
        "",
        f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}: Frechet distance (lower is",
        "better), in brackets the mean accuracy.",
        "",
        f"- Minority gap closed, mean over clients: {percent(mean_gap(gaps))}. There is no number where",
        "  local-only minus centralised is not above its spread over seeds.",
    ]
    return "\n".join(lines) + "\n"


def seed_gap(clients: Sequence[ClientResults]) -> float | None:
    """Return the gap closed of one client's mean distances over seeds, judged by the spread over seeds."""
    means: dict[Method, float | None] = {}
    for method in ("local", "pfdm", "centralised"):
        means[method] = _mean([client.frechet("minority", method) for client in clients])
    gaps = [_difference(client) for client in clients]
    known = [gap for gap in gaps if gap is not None]
    if len(known) < len(gaps) or len(known) < 2:
        return None
    averaged = ClientResults(
        client=clients[0].client,
        name=clients[0].name,
        groups={"minority": {method: GroupScores(frechet=value) for method, value in means.items()}},
    )
    return gap_closed(averaged, statistics.stdev(known))


def _difference(client: ClientResults) -> float | None:
    local, centralised = client.frechet("minority", "local"), client.frechet("minority", "centralised")
    return None if local is None or centralised is None else local - centralised


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _mean_and_spread(clients: Sequence[ClientResults], group: Group, method: Method) -> str:
    scores = [client.groups.get(group, {}).get(method, GroupScores()) for client in clients]
    distances = [s.frechet for s in scores if s.frechet is not None]
    if len(distances) < len(scores):
        return NO_NUMBER
    spread = statistics.stdev(distances)
    return (
        f"{number(_mean(distances))} ± {number(spread, 2)} ({percent(_mean([s.accuracy for s in scores]))})"
    )


def _check_comparable(runs: Sequence[RunFiles]) -> None:
    seeds = [run.results.seed for run in runs]
    if len(set(seeds)) < max(2, len(runs)):
        raise RunError(
            f"a spread over seeds needs two or more runs with different seeds, but these have {seeds}"
        )
    first = runs[0]
    for run in runs[1:]:
        keys = (set(first.config) | set(run.config)) - _MAY_DIFFER
        other = sorted(key for key in keys if first.config.get(key) != run.config.get(key))
        if other:
            raise RunError(
                f"{first.folder} and {run.folder} differ in more than the seed: {', '.join(other)}"
            )
        if [c.client for c in first.results.clients] != [c.client for c in run.results.clients]:
            raise RunError(f"{first.folder} and {run.folder} have results of different clients")
