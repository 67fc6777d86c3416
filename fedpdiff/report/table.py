"""The result table of a run as plain Markdown, readable in a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from fedpdiff.privacy.statement import NEIGHBOURS, UNIT
from fedpdiff.report.wording import (
    GROUPS,
    LARGE_EPSILON,
    METHODS,
    duration,
    epsilon,
    method_title,
    number,
    percent,
    size,
)
from fedpdiff.results import GroupScores, Method, Results

MOST_SHOWN = 12  # clients by name; results.json has all


def results_table(results: Results) -> str:
    """Return the table and the lines below it: privacy, gap closed, traffic, time, who was left out."""
    lines = [f"- {line}" for line in summary_lines(results)]
    if shown_methods(results):
        lines = [*_score_rows(results), "", *_LEGEND, "", *lines]
    return "\n".join(lines) + "\n"


_LEGEND = (
    "Frechet distance to real test images (lower is better); in brackets the share of images recognised",
    "as the wanted class.",
)


def _score_rows(results: Results) -> list[str]:
    methods = shown_methods(results)
    rows = [["client", "classes", *(method_title(method, results) for method in methods)]]
    for client in results.clients[:MOST_SHOWN]:
        for group in GROUPS:
            if group in client.groups:
                scores = (client.groups[group].get(method, GroupScores()) for method in methods)
                rows.append([client.name, group, *(_cell(one.frechet, one.accuracy) for one in scores)])
    if len(results.clients) > MOST_SHOWN:
        rows += _mean_rows(results, methods)
    return markdown(rows)


def _mean_rows(results: Results, methods: list[Method]) -> list[list[str]]:
    """Return the means over all clients that have a number, where the table shows the first only."""
    rows = []
    for group in GROUPS:
        cells = []
        for method in methods:
            there = [client.groups.get(group, {}).get(method, GroupScores()) for client in results.clients]
            distances = [one.frechet for one in there if one.frechet is not None]
            shares = [one.accuracy for one in there if one.accuracy is not None]
            cells.append(_cell(_mean(distances), _mean(shares)))
        rows.append([f"mean of {len(results.clients):,}", group, *cells])
    return rows


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def shown_methods(results: Results) -> list[Method]:
    """Return the methods that any client has scores of, in the order of the table."""
    present = {
        method
        for client in results.clients
        for group in client.groups.values()
        for method, scores in group.items()
        if scores.frechet is not None or scores.accuracy is not None
    }
    known = list(METHODS)
    return sorted(present, key=lambda method: known.index(method if method in METHODS else "pfdm"))


def summary_lines(results: Results) -> list[str]:
    """Return one line each for privacy, gap closed, traffic, time, participants, refusals and notes."""
    lines = [privacy_line(results), gap_line(results)]
    if results.bytes_up:
        up, down = max(results.bytes_up), max(results.bytes_down, default=0)
        lines.append(f"Sent per client: {size(up)} up, {size(down)} down (the most of any client).")
    phases = ", ".join(f"{name} {duration(spent)}" for name, spent in results.seconds.items())
    if phases:
        lines.append(f"Time: {phases}.")
    lines.append(f"Distances are in {results.feature_space}; seed {results.seed}.")
    if results.participants:
        lines.append(f"Took part: {listed(results.participants)}.")
    lines += [f"Left out: {r.site} in {r.phase}: {r.reason}" for r in results.refused]
    return lines + results.notes


def privacy_line(results: Results) -> str:
    """Return the privacy statement in one line, with its unit and what weakens it."""
    if "guarantee" in results.privacy:
        return f"Privacy: {results.privacy['guarantee']}. The server sees {results.server_sees}."
    if results.release_noise == "seeded":
        return "NOT PRIVATE: the release noise was seeded, so whoever knows the seed can remove it."
    if results.privacy.get("epsilon") is None:
        return "Privacy: no finite epsilon is stated."
    line = statement_line(results.privacy)
    if results.privacy["epsilon"] > LARGE_EPSILON:
        line += " So large an epsilon is a weak worst-case guarantee."
    return line


def statement_line(privacy: dict[str, Any]) -> str:
    """Return the numbers of a privacy statement in one line, with their unit."""
    line = f"Privacy: epsilon = {epsilon(privacy['epsilon'])} at delta = {privacy.get('delta')}, exact"
    if privacy.get("epsilon_theorem_5_1") is not None:
        line += f" (Theorem 5.1: {epsilon(privacy['epsilon_theorem_5_1'])})"
    return line + f", for {UNIT}, {NEIGHBOURS}."


def gap_line(results: Results) -> str:
    """Return the minority gap closed, per client and as a mean."""
    if results.method != "pfdm":
        return "Minority gap closed: no number; compare with runs of local-only and centralised."
    each = listed(
        [
            f"{client.name} {percent(gap)}"
            for client, gap in zip(results.clients, results.gap_closed, strict=False)
        ]
    )
    if results.gap_closed_mean is None:
        return f"Minority gap closed: no number ({each}): the gap is not above its spread, or not measured."
    return (
        f"Minority gap closed, from local-only to centralised: {percent(results.gap_closed_mean)} ({each})."
    )


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose first row is the header, padded to equal columns."""
    safe = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in safe) for i in range(len(safe[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in safe]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _cell(distance: float | None, share: float | None) -> str:
    return f"{number(distance)} ({percent(share)})"


def listed(names: Sequence[str]) -> str:
    """Return names separated by commas, the first of many and how many more there are."""
    more = len(names) - MOST_SHOWN
    return ", ".join(names[:MOST_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
