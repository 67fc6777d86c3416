"""The table of a sweep as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io

from fedpdiff.report.sweep_rows import Row, Spread, SweepRows
from fedpdiff.report.sweep_words import distances, findings
from fedpdiff.report.table import listed, markdown
from fedpdiff.report.wording import NO_NUMBER, percent, size

_SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"} | {"±": "$\\pm$", "–": "--", "~": "\\textasciitilde{}"}
)


def header(sweep: SweepRows) -> list[str]:
    """Return the columns of the table."""
    varied = [key for key in sweep.varied if key != "method"]
    return [
        "method",
        *varied,
        "minority Frechet",
        "majority Frechet",
        *(["oracle hand-off"] if _has_oracle(sweep) else []),
        "gap closed",
        "minority accuracy",
        *(["absent accuracy"] if _has_absent(sweep) else []),
        "minority utility",
        "fairness gap",
        "up",
        "down",
        "steps (client + server)",
        "guarantee",
    ]


def _has_oracle(sweep: SweepRows) -> bool:
    return any(row.oracle for row in sweep.rows)


def _has_absent(sweep: SweepRows) -> bool:
    return any(("absent", "accuracy") in row.scores for row in sweep.rows)


def cells(sweep: SweepRows) -> list[list[str]]:
    """Return the table, one list of texts per row, the best minority distance first at each point."""
    return [_cells(sweep, row) for row in ordered(sweep)]


def ordered(sweep: SweepRows) -> list[Row]:
    """Return the rows in the order of the table."""
    places = {key: _places(sweep, key) for key in sweep.varied if key != "method"}
    return sorted(
        sweep.rows,
        key=lambda row: (
            [places[key].index(row.point.get(key)) for key in places],
            row.minority.mean if row.minority else float("inf"),
        ),
    )


def _places(sweep: SweepRows, key: str) -> list[object]:
    """Return the values of a setting in the order of the sweep file; no value comes first."""
    return [None, *dict.fromkeys(row.point[key] for row in sweep.rows if key in row.point)]


def sweep_markdown(sweep: SweepRows) -> str:
    """Return the table with its legend as Markdown."""
    seeds = sorted({seed for row in sweep.rows for seed in row.seeds})
    lines = [
        *markdown([header(sweep), *cells(sweep)]),
        "",
        f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}, each the mean over clients.",
        "Frechet distance: lower is better. Gap closed: share of the way from local-only to centralised, for",
        "rare classes. Oracle hand-off: minority distance when real uploads are handed over. Accuracy: share",
        "of samples recognised as the wanted class; absent: classes that a client has no image of.",
        "Utility: share of real test images recognised by a classifier trained on the samples alone;",
        "its difference between majority and minority classes is the fairness gap. Traffic: the most of any",
        "client.",
    ]
    notes = remarks(sweep)
    if notes:
        lines += ["", *(f"- {line}" for line in notes)]
    return "\n".join(lines) + "\n"


def remarks(sweep: SweepRows) -> list[str]:
    """Return what the numbers say, and what is missing among them."""
    missing = [f"Not finished: {listed(sweep.unfinished)}."] if sweep.unfinished else []
    return findings(sweep) + missing


def sweep_latex(sweep: SweepRows) -> str:
    """Return the table for a paper (booktabs)."""
    columns = header(sweep)[:-1]
    words = sum(key != "method" for key in sweep.varied) + 1
    kinds = "l" * words + "r" * (len(columns) - words)
    lines = [f"\\begin{{tabular}}{{{kinds}}}", "\\toprule"]
    lines.append(" & ".join(text.translate(_SPECIAL) for text in columns) + " \\\\")
    lines.append("\\midrule")
    for row in cells(sweep):
        lines.append(" & ".join(text.translate(_SPECIAL) for text in row[:-1]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def sweep_csv(sweep: SweepRows) -> str:
    """Return every number of every row, in full precision, for further work."""
    text = io.StringIO()
    writer = csv.writer(text)
    keys = sorted({key for row in sweep.rows for key in row.scores})
    names = [f"{group} {metric} {part}" for group, metric in keys for part in ("mean", "std")]
    facts = ("gap_closed", "epsilon", "bytes_up", "bytes_down", "client_steps", "server_steps", "evaluations")
    varied = [key for key in sweep.varied if key != "method"]
    writer.writerow(["method", *varied, "seeds", *names, *facts, "guarantee"])
    for row in ordered(sweep):
        spreads = [row.scores.get(key) for key in keys]
        values = [value for spread in spreads for value in _full(spread)]
        seeds = " ".join(map(str, row.seeds))
        point = [row.point.get(key) for key in varied]
        numbers = [getattr(row, fact) for fact in facts]
        writer.writerow([row.method, *point, seeds, *values, *numbers, row.guarantee])
    return text.getvalue()


def _cells(sweep: SweepRows, row: Row) -> list[str]:
    fairness = NO_NUMBER
    utility = {group: row.scores.get((group, "utility")) for group in ("majority", "minority")}
    if utility["majority"] is not None and utility["minority"] is not None:
        fairness = f"{100 * (utility['majority'].mean - utility['minority'].mean):.1f} points"
    minority = utility["minority"]
    accuracy = row.scores.get(("minority", "accuracy"))
    absent = row.scores.get(("absent", "accuracy"))
    return [
        row.title,
        *(str(row.point.get(key, NO_NUMBER)) for key in sweep.varied if key != "method"),
        distances(row.minority),
        distances(row.scores.get(("majority", "frechet"))),
        *([distances(row.oracle.get(("minority", "frechet")))] if _has_oracle(sweep) else []),
        percent(row.gap_closed),
        percent(accuracy.mean) if accuracy else NO_NUMBER,
        *([percent(absent.mean) if absent else NO_NUMBER] if _has_absent(sweep) else []),
        percent(minority.mean) if minority else NO_NUMBER,
        fairness,
        size(row.bytes_up),
        size(row.bytes_down),
        f"{row.client_steps} + {row.server_steps}",
        row.guarantee,
    ]


def _full(spread: Spread | None) -> tuple[float | str, float | str]:
    if spread is None:
        return "", ""
    return spread.mean, "" if spread.deviation is None else spread.deviation
