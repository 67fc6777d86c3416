"""The figure of ``fedpdiff privacy --frontier``: what each budget leaves, one panel per question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from fedpdiff.report.frontier_table import frontier_distance
from fedpdiff.report.style import COLOURS, INK, figure, save, styled
from fedpdiff.report.wording import LARGE_EPSILON, METHODS, number
from fedpdiff.results import Method

_CEILINGS = (
    ("auc", "AUC, one image from one other", "pfdm", "-", 0.5),
    ("tpr_at_1_percent_fpr", "true positives at 1 % false positives", "local", "-", 0.01),
    ("reidentify_1_of_100", "picking 1 of 100", "centralised", "--", 0.01),
)

_MARKERS: dict[Method, str] = {"local": "s", "pfdm": "o"}  # of the methods whose distances are drawn


@styled
def draw_frontier(found: dict[str, Any], path: Path) -> Path:
    """Draw what :func:`fedpdiff.federation.frontier.choose` returned, as a PNG at ``path``.

    Parameters
    ----------
    found
        With at least one row that the schedule reaches.
    path
        The file; its folder is made when missing.
    """
    rows = [row for row in found["rows"] if "epsilon" in row]
    measured = [row for row in rows if any(frontier_distance(row, method) for method in _MARKERS)]
    panels = [_signal, _ceilings, *([_distances] if measured else [])]
    canvas = figure(3.75 * len(panels), 3.5)
    for place, draw in enumerate(panels):
        axes = canvas.add_subplot(1, len(panels), place + 1)
        _epsilon_axis(axes, found, rows)
        draw(axes, found["curve"], measured if draw is _distances else rows)
    canvas.tight_layout()
    return save(canvas, path)


def _epsilon_axis(axes: Axes, found: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    axes.set_xscale("log")
    low, high = rows[0]["epsilon"] / 1.5, max(rows[-1]["epsilon"] * 2.2, LARGE_EPSILON * 1.2)
    axes.set_xlim(low, high)
    axes.axvspan(max(low, LARGE_EPSILON), high, color="#f3e9e4", lw=0, zorder=0)
    axes.set_xticks([row["budget"] for row in rows], [f"{row['budget']:g}" for row in rows])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlabel(f"epsilon of one image, delta = {found['delta']:g}")


def _signal(axes: Axes, line: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    axes.set_yscale("log")
    axes.plot(
        [p["epsilon"] for p in line],
        [p["signal_to_noise"] for p in line],
        color=COLOURS["pfdm"],
        lw=1.4,
    )
    for row in rows:
        axes.plot(row["epsilon"], row["signal_to_noise"], "o", ms=4.5, color=COLOURS["pfdm"])
        axes.annotate(f"t0 {row['t0']}", (row["epsilon"], row["signal_to_noise"]), (5, -9),
                      textcoords="offset points", size=7.5)  # fmt: skip
    axes.axhline(1, color=COLOURS["quiet"], lw=0.8, ls=":")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _title(axes, "Signal of one upload", "squared norm over noise variance of a value")
    shaded = f"shaded: epsilon above {LARGE_EPSILON:g},\nnearly empty as a\nworst-case guarantee"
    axes.text(0.985, 0.03, shaded, transform=axes.transAxes, ha="right", va="bottom", size=7,
              color="#8a5a45")  # fmt: skip


def _ceilings(axes: Axes, line: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    for key, label, colour, dashes, chance in _CEILINGS:
        ceilings = [p["attack_ceilings"][key] for p in line]
        axes.plot([p["epsilon"] for p in line], ceilings, color=COLOURS[colour], lw=1.4, ls=dashes,
                  label=f"{label} ({100 * chance:g} % by guessing)")  # fmt: skip
        axes.plot([row["epsilon"] for row in rows], [row["attack_ceilings"][key] for row in rows], "o",
                  ms=3.5, color=COLOURS[colour])  # fmt: skip
    axes.set_ylim(0, 1.42)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.legend(frameon=False, fontsize=7, loc="upper left", borderaxespad=0.1)
    _title(axes, "No attack on an upload exceeds", "ceilings that follow from mu alone")


def _distances(axes: Axes, line: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    for method, marker in _MARKERS.items():
        points = [(row["epsilon"], frontier_distance(row, method)) for row in rows]
        known = [(x, y) for x, y in points if y is not None]
        if not known:
            continue
        axes.plot(*zip(*known, strict=True), marker=marker, ms=4.5, lw=1.2, color=COLOURS[method],
                  label=METHODS[method])  # fmt: skip
        for row in rows:
            _label(axes, row, method)
    axes.set_ylim(0, 1.25 * max(frontier_distance(row, m) or 0 for row in rows for m in _MARKERS))
    axes.legend(frameon=False, fontsize=7.5, loc="lower left")
    _title(axes, "Minority classes, measured", "Frechet distance, lower is better")


def _label(axes: Axes, row: dict[str, Any], method: Method) -> None:
    """Write a distance above its point, or below it where the other method's stands above."""
    value = frontier_distance(row, method)
    others = [frontier_distance(row, other) for other in _MARKERS if other != method]
    if value is not None:
        below = any(other is not None and other > value for other in others)
        axes.annotate(number(value), (row["epsilon"], value), (0, -12 if below else 6),
                      textcoords="offset points", ha="center", size=7, color=INK)  # fmt: skip


def _title(axes: Axes, title: str, second: str) -> None:
    axes.set_title(f"{title}\n", size=9.5, weight="bold", loc="left")
    axes.text(0, 1.03, second, transform=axes.transAxes, size=8, color=COLOURS["real"])
