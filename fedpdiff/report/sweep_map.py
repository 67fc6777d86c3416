"""The map of a sweep over epsilon and the images of rare classes: where collaborating pays, and how much.

Every number is taken against local-only of the same seed and division of the images, and stands beside what
``fedpdiff advise`` would have said of it before anything was shared.
"""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

from fedpdiff.advice.answer import Outcome, predict
from fedpdiff.advice.question import Question
from fedpdiff.errors import FedpdiffError
from fedpdiff.report.sweep_gap import Run, bound, over_clients
from fedpdiff.report.sweep_rows import Row, Spread, SweepRows
from fedpdiff.report.table import markdown
from fedpdiff.report.wording import NO_NUMBER, percent


@dataclass(frozen=True)
class Cell:
    """One budget with one number of images of each rare class.

    Attributes
    ----------
    epsilon
        Budget of one image, as asked.
    minority
        Images of each rare class at a client.
    gain, oracle
        Share of local-only's minority distance that PFDM, and the oracle hand-off, take away; negative where
        they add to it. Mean and spread over seeds of the mean over clients. None without such images.
    gap_closed
        Share of the way from local-only to centralised.
    recognised, recognised_alone
        Share of PFDM's and of local-only's samples recognised as a class that the client has no image of.
    expected
        What theory says; None where the settings are none that it knows.
    """

    epsilon: float
    minority: int
    gain: Spread | None
    oracle: Spread | None
    gap_closed: float | None
    recognised: Spread | None
    recognised_alone: Spread | None
    expected: Outcome | None


def read_map(sweep: SweepRows) -> list[Cell]:
    """Return the cells of a sweep over both, in order; none where it does not vary both.

    What else is varied must be the same in all cells, or there would be several maps.
    """
    return [_cell(*place, row, sweep.runs) for place, row in _places(sweep)]


def has_map(sweep: SweepRows) -> bool:
    """Return whether :func:`read_map` finds cells."""
    return bool(_places(sweep))


def _places(sweep: SweepRows) -> list[tuple[tuple[float, int], Row]]:
    """Return PFDM's rows by epsilon and images of a rare class, in order; none where that is no map."""
    found = [
        (place, row) for row in sweep.rows if row.method == "pfdm" and (place := _place(row)) is not None
    ]
    places = [place for place, _ in found]
    if len({e for e, _ in places}) < 2 or len({n for _, n in places}) < 2 or len(set(places)) < len(places):
        return []
    return sorted(found, key=lambda pair: pair[0])


def _place(row: Row) -> tuple[float, int] | None:
    if "epsilon" not in row.point:
        return None
    few = minority_images(str(row.point.get("partitioner-settings", "")))
    return None if few is None else (float(row.point["epsilon"]), few)


def minority_images(settings: str) -> int | None:
    """Return ``minority_images`` of a run's ``partitioner-settings``; None where it is not there."""
    try:
        found = tomllib.loads(f"all = {{{settings}}}")["all"].get("minority_images")
    except tomllib.TOMLDecodeError:
        return None
    return found if isinstance(found, int) else None


def _cell(epsilon: float, few: int, row: Row, everything: Sequence[Run]) -> Cell:
    local = [bound(run, "local-only", everything) for run in row.runs]
    own = [over_clients(run.results, "minority", "pfdm", "frechet") for run in row.runs]
    oracle = [over_clients(run.results, "minority", "oracle", "frechet") for run in row.runs]
    alone = [over_clients(run.results, "absent", "local", "accuracy") for run in row.runs]
    return Cell(
        epsilon=epsilon,
        minority=few,
        gain=_reduction(local, own),
        oracle=_reduction(local, oracle),
        gap_closed=row.gap_closed,
        recognised=row.scores.get(("absent", "accuracy")),
        recognised_alone=_spread(alone),
        expected=_expected(epsilon, few, row.runs[0]),
    )


def _reduction(before: Sequence[float | None], after: Sequence[float | None]) -> Spread | None:
    return _spread([None if not a or b is None else 1 - b / a for a, b in zip(before, after, strict=True)])


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _expected(epsilon: float, few: int, run: Run) -> Outcome | None:
    """Return the advice for a run, asked with nothing but its settings and numbers of images."""
    config, results = run.files.config, run.results
    try:
        side, channels, delta = int(config["image-size"]), int(config["channels"]), float(config["delta"])
        return predict(
            Question(
                epsilon=epsilon,
                images=sum(certificate.images for certificate in results.certificates),
                minority=few,
                shape=(side, side, channels),
                delta=delta,
                classes=len(results.class_names),
                clients=max(len(results.clients), 2),
            )
        )
    except (KeyError, TypeError, ValueError, FedpdiffError):
        return None


def map_table(cells: Sequence[Cell]) -> list[list[str]]:
    """Return one row per number of images and budget: measured beside expected; the first is the header."""
    rows = [["images of a rare class", "epsilon", "gain over local-only", "expected", "oracle hand-off",
             "at best", "gap closed", "absent classes recognised", "expected"]]  # fmt: skip
    for cell in sorted(cells, key=lambda cell: (cell.minority, cell.epsilon)):
        expected = cell.expected or Outcome()
        known = percent(cell.recognised.mean) if cell.recognised else NO_NUMBER
        if cell.recognised and cell.recognised_alone:
            known += f" (alone {percent(cell.recognised_alone.mean)})"
        rows.append(
            [
                str(cell.minority), f"{cell.epsilon:g}", shares(cell.gain), percent(expected.gain),
                shares(cell.oracle), percent(expected.best_oracle), percent(cell.gap_closed), known,
                percent(expected.recognised),
            ]
        )  # fmt: skip
    return rows


def shares(spread: Spread | None) -> str:
    """Write a share as a percentage with its spread over seeds."""
    if spread is None:
        return NO_NUMBER
    around = "" if spread.deviation is None else f" ± {100 * spread.deviation:.0f}"
    return f"{round(100 * spread.mean)}{around} %"


def advice_error(cells: Sequence[Cell]) -> list[str]:
    """Say in whole sentences how far the advice was from what was measured."""
    lines = []
    pairs = [
        (c.expected.gain, c.gain.mean) for c in cells if c.expected and c.gain and c.expected.gain is not None
    ]
    if pairs:
        lines.append(f"fedpdiff advise expected the gain {_errors(pairs)}.")
        agree = sum((a >= 0.05) == (b >= 0.05) for a, b in pairs)
        lines.append(
            f"Whether it pays (a gain of at least 5 %) it said rightly in {agree} of {len(pairs)} cells."
        )
    best = [
        (c.expected.best_oracle, c.oracle.mean)
        for c in cells
        if c.expected and c.oracle and c.expected.best_oracle is not None
    ]
    if best:
        above = sum(b > a + 0.05 for a, b in best)
        lines.append(
            f"The oracle hand-off was above what theory allows at best, by more than 5 points, in {above} of "
            f"{len(best)} cells; theory missed it {_errors(best)}."
        )
    known = [
        (c.expected.recognised, c.recognised.mean)
        for c in cells
        if c.expected and c.recognised and c.expected.recognised is not None
    ]
    if known:
        lines.append(f"It expected the share of absent classes recognised {_errors(known)}.")
    return lines


def _errors(pairs: Sequence[tuple[float, float]]) -> str:
    off = [100 * (expected - seen) for expected, seen in pairs]
    size = statistics.fmean(abs(value) for value in off)
    return (
        f"with a mean error of {size:.0f} points ({statistics.fmean(off):+.0f} on average, at most "
        f"{max(off, key=abs):+.0f}) over {len(pairs)} cells"
    )


def map_markdown(cells: Sequence[Cell]) -> str:
    """Return the map as a section of Markdown; empty where there is none."""
    if not cells:
        return ""
    lines = [
        "",
        "## Where collaborating pays",
        "",
        *markdown(map_table(cells)),
        "",
        "Gain: share of local-only's distance of rare classes that PFDM takes away; expected: by fedpdiff",
        "advise, from the settings alone. Oracle hand-off: the same when real uploads are handed over; at",
        "best: what theory allows.",
        "",
        *(f"- {line}" for line in advice_error(cells)),
    ]
    return "\n".join(lines) + "\n"
