"""The table of a sweep as Markdown, LaTeX and CSV, and what its numbers say in words."""

from __future__ import annotations

import csv
import io

from fedpdiff.report.sweep_rows import Row, Spread, SweepRows
from fedpdiff.report.table import markdown
from fedpdiff.report.wording import NO_NUMBER, number, percent, size

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
        "minority accuracy",
        "minority utility",
        "fairness gap",
        "up",
        "down",
        "steps (client + server)",
        "guarantee",
    ]


def cells(sweep: SweepRows) -> list[list[str]]:
    """Return the table, one list of texts per row, the best minority distance first within each point."""
    ordered = sorted(sweep.rows, key=lambda row: (_others(sweep, row), _distance(row)))
    return [_cells(sweep, row) for row in ordered]


def sweep_markdown(sweep: SweepRows) -> str:
    """Return the table with its legend as Markdown."""
    seeds = sorted({seed for row in sweep.rows for seed in row.seeds})
    lines = [
        *markdown([header(sweep), *cells(sweep)]),
        "",
        f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}, each the mean over clients.",
        "Frechet distance: lower is better. Accuracy: share of samples recognised as the wanted class.",
        "Utility: share of real test images recognised by a classifier trained on the samples alone;",
        "its difference between majority and minority classes is the fairness gap. Traffic: the most of any",
        "client.",
    ]
    lines += [f"- Not finished: {name}" for name in sweep.unfinished]
    return "\n".join(lines) + "\n"


def sweep_latex(sweep: SweepRows) -> str:
    """Return the table for a paper (booktabs)."""
    columns = header(sweep)[:-1]
    lines = [f"\\begin{{tabular}}{{{'l' * (len(columns) - 8)}{'r' * 8}}}", "\\toprule"]
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
    facts = ("bytes_up", "bytes_down", "client_steps", "server_steps", "evaluations", "guarantee")
    varied = [key for key in sweep.varied if key != "method"]
    writer.writerow(["method", *varied, "seeds", *names, *facts])
    for row in sweep.rows:
        spreads = [row.scores.get(key) for key in keys]
        values = [value for spread in spreads for value in _full(spread)]
        seeds = " ".join(map(str, row.seeds))
        point = [row.point[key] for key in varied]
        writer.writerow([row.method, *point, seeds, *values, *(getattr(row, fact) for fact in facts)])
    return text.getvalue()


def findings(sweep: SweepRows) -> list[str]:
    """Say which known failure a row shows, and what to change; one line each."""
    found = []
    local = {str(_others(sweep, row)): row for row in sweep.rows if row.method == "local-only"}
    for row in sweep.rows:
        alone = local.get(str(_others(sweep, row)))
        if row.method == "pfdm" and alone is not None:
            found += _against_local(sweep, row, alone)
        accuracy = row.scores.get(("minority", "accuracy"))
        if accuracy is not None and accuracy.mean < 0.5:
            found.append(
                f"{_name(sweep, row)}: only {percent(accuracy.mean)} of rare-class samples are recognised as "
                "their class. The network that makes them is undertrained or too small: raise "
                "personal-steps, or choose a larger network"
            )
    return found


def _against_local(sweep: SweepRows, row: Row, alone: Row) -> list[str]:
    mine, theirs = (r.scores.get(("minority", "frechet")) for r in (row, alone))
    if mine is None or theirs is None:
        return []
    noise = (mine.deviation or 0.0) + (theirs.deviation or 0.0)
    if mine.mean > theirs.mean + noise:
        return [
            f"{_name(sweep, row)}: worse for rare classes than local-only. Either the uploads "
            "hold too little (t0 too large: a larger epsilon, or more images) or the personal network does "
            "not follow the hint (too small, or undertrained): the oracle hand-off in the runs' reports "
            "tells which"
        ]
    return []


def _cells(sweep: SweepRows, row: Row) -> list[str]:
    fairness = NO_NUMBER
    utility = {group: row.scores.get((group, "utility")) for group in ("majority", "minority")}
    if utility["majority"] is not None and utility["minority"] is not None:
        fairness = f"{100 * (utility['majority'].mean - utility['minority'].mean):.1f} points"
    minority = utility["minority"]
    accuracy = row.scores.get(("minority", "accuracy"))
    return [
        row.title if row.method != "pfdm" else "PFDM",
        *(str(row.point[key]) for key in sweep.varied if key != "method"),
        _distances(row.scores.get(("minority", "frechet"))),
        _distances(row.scores.get(("majority", "frechet"))),
        percent(accuracy.mean) if accuracy else NO_NUMBER,
        percent(minority.mean) if minority else NO_NUMBER,
        fairness,
        size(row.bytes_up),
        size(row.bytes_down),
        f"{row.client_steps} + {row.server_steps}",
        row.guarantee,
    ]


def _distances(spread: Spread | None) -> str:
    if spread is None:
        return NO_NUMBER
    if spread.deviation is None:
        return number(spread.mean)
    return f"{number(spread.mean)} ± {number(spread.deviation, 2)}"


def _full(spread: Spread | None) -> tuple[float | str, float | str]:
    if spread is None:
        return "", ""
    return spread.mean, "" if spread.deviation is None else spread.deviation


def _others(sweep: SweepRows, row: Row) -> tuple[str, ...]:
    return tuple(str(row.point[key]) for key in sweep.varied if key != "method")


def _distance(row: Row) -> float:
    spread = row.scores.get(("minority", "frechet"))
    return float("inf") if spread is None else spread.mean


def _name(sweep: SweepRows, row: Row) -> str:
    others = ", ".join(f"{key} = {row.point[key]}" for key in sweep.varied if key != "method")
    return f"{row.title} ({others})" if others else row.title
