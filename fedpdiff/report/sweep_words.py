"""What a sweep's numbers say in words: which methods beat PFDM, and which known failures the rows show."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from fedpdiff.report.run_files import own_column
from fedpdiff.report.signatures import Symptoms, signatures, symptoms
from fedpdiff.report.sweep_gap import Run
from fedpdiff.report.sweep_rows import Row, Spread, SweepRows
from fedpdiff.report.wording import NO_NUMBER, number


def findings(sweep: SweepRows) -> list[str]:
    """Return whole sentences: first what beats PFDM, then the failures."""
    found = [line for row in sweep.rows if row.method == "pfdm" for line in _better(sweep, row)]
    found += _spaces(sweep)
    shown: dict[str, list[str]] = {}  # many rows may show the very same
    for row in sweep.rows:
        if row.column == own_column(row.runs[0].results):
            for line in signatures(_symptoms(sweep, row)):
                shown.setdefault(line, []).append(name(sweep, row))
    return found + [f"{', '.join(names)}: {line}" for line, names in shown.items()]


def name(sweep: SweepRows, row: Row) -> str:
    """Return the method with the values of what else was varied."""
    others = [f"{key} = {row.point[key]}" for key in sweep.varied if key != "method" and key in row.point]
    return f"{row.title} ({', '.join(others)})" if others else row.title


def distances(spread: Spread | None) -> str:
    """Write a distance as mean ± standard deviation."""
    if spread is None:
        return NO_NUMBER
    if spread.deviation is None:
        return number(spread.mean)
    return f"{number(spread.mean)} ± {number(spread.deviation, 2)}"


def _better(sweep: SweepRows, row: Row) -> list[str]:
    """Say which other methods are better than one row of PFDM for rare classes, and how surely."""
    mine = row.minority
    if mine is None:
        return []
    others = [
        (other, other.minority)
        for method in dict.fromkeys(row.method for row in sweep.rows)
        if method != "pfdm"
        for other in sweep.comparable(row, method)
    ]
    lower = sorted(
        ((other, spread) for other, spread in others if spread and spread.mean < mine.mean),
        key=lambda pair: pair[1].mean,
    )
    if not others:
        return []
    begin = f"{name(sweep, row)}, rare classes at {distances(mine)}: "
    if not lower:
        return [f"{begin}no other method is better."]
    sure = [pair for pair in lower if mine.mean - pair[1].mean > _noise(mine) + _noise(pair[1])]
    unsure = [pair for pair in lower if pair not in sure]
    parts = []
    if sure:
        by = (
            " by more than the spreads over seeds" if mine.deviation is not None else " (one seed: no spread)"
        )
        parts.append(f"better{by}: {_listed(sweep, sure)}")
    if unsure:
        parts.append(f"better, but within the spreads over seeds: {_listed(sweep, unsure)}")
    return [f"{begin}{'; '.join(parts)}."]


def _listed(sweep: SweepRows, pairs: Sequence[tuple[Row, Spread]]) -> str:
    return ", ".join(f"{name(sweep, row)} {distances(spread)}" for row, spread in pairs)


def _noise(spread: Spread) -> float:
    return spread.deviation or 0.0


def _symptoms(sweep: SweepRows, row: Row) -> Symptoms:
    """Put the symptoms of a point's runs together; of several local-only models the best counts."""
    each = [symptoms(run.files) for run in row.runs]
    alone = [other.minority.mean for other in sweep.comparable(row, "local-only") if other.minority]
    oracle = row.oracle.get(("minority", "frechet"))
    accuracy = row.scores.get(("minority", "accuracy"))
    attacked = [s.attacks for s in each if s.attacks is not None]
    return Symptoms(
        method=row.method,
        minority=row.minority.mean if row.minority else None,
        local=min(alone, default=None),
        oracle=oracle.mean if oracle else None,
        accuracy=accuracy.mean if accuracy else None,
        coverage=_mean([s.coverage for s in each]),
        sharpness=_mean([s.sharpness for s in each]),
        attacks=next((a for a in attacked if a.exceeded), attacked[0] if attacked else None),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _spaces(sweep: SweepRows) -> list[str]:
    """Warn where runs of one seed that the table compares measured in different feature spaces."""
    groups: dict[tuple[int, int], list[Run]] = {}
    for row in sweep.rows:
        for run in row.runs:
            groups.setdefault((run.results.seed, len(run.results.clients)), []).append(run)
    return [
        f"The runs of seed {seed} with {clients} clients measured in different feature spaces "
        f"({', '.join(spaces)}): their distances compare only roughly, and no gap is stated between them."
        for (seed, clients), runs in groups.items()
        if len(spaces := sorted({run.results.feature_space for run in runs})) > 1
    ]
