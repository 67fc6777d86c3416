"""The figure of a sweep with named variants: each one's distances, from the first to the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from fedpdiff.report.style import BOUNDS, COLOURS, figure, save, styled
from fedpdiff.report.sweep_rows import GROUPS, VARIANT, Row, SweepRows
from fedpdiff.results import Group


@styled
def draw_variants(sweep: SweepRows, path: Path) -> tuple[Path, str] | None:
    """Draw the distances of every variant of PFDM by budget, beside local-only; None without variants."""
    rows = [row for row in sweep.rows if row.method == "pfdm" and VARIANT in row.point and row.minority]
    names = list(dict.fromkeys(str(row.point[VARIANT]) for row in rows))
    if len(names) < 2:
        return None
    budgets = sorted({row.point["epsilon"] for row in rows if "epsilon" in row.point})
    depths = np.linspace(0.35, 0.95, len(budgets)) if len(budgets) > 1 else [0.8]
    shades = {at: to_hex(colormaps["Blues"](depth)) for at, depth in zip(budgets, depths, strict=True)}
    canvas = figure(7.8, 1.1 + 0.3 * len(names))
    for place, group in enumerate(GROUPS):
        axes = canvas.add_subplot(1, 2, place + 1)
        for row in rows:
            _point(axes, row, group, names, shades.get(row.point.get("epsilon"), COLOURS["pfdm"]), "o")
        for row in sweep.rows:
            if row.method == "local-only" and row.point.get(VARIANT) in names:
                _point(axes, row, group, names, COLOURS["local"], "|")
            elif row.method in BOUNDS and VARIANT not in row.point and (group, "frechet") in row.scores:
                axes.axvline(row.scores[group, "frechet"].mean, color=BOUNDS[row.method], lw=1, ls="--")
        axes.set_yticks(range(len(names)), names if place == 0 else [])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_title(f"{group} classes", size=9.5, weight="bold", loc="left")
        axes.set_xlabel("Frechet distance (lower is better)")
    canvas.tight_layout(rect=(0, 0.09, 1, 1))
    canvas.legend(handles=_key(shades), ncols=4, frameon=False, fontsize=7, loc="lower center")
    return save(canvas, path), (
        "Frechet distance of every variant, mean and spread over seeds; lower is better. The bars are what "
        "a client makes alone with the same settings; the lines are what it makes alone with the last ones, "
        "and what one model makes of everybody's images."
    )


def _point(axes: Axes, row: Row, group: Group, names: Sequence[str], colour: str, marker: str) -> None:
    spread = row.scores.get((group, "frechet"))
    if spread is not None:
        height, size = names.index(str(row.point[VARIANT])), 5 if marker == "o" else 12
        axes.errorbar(
            spread.mean, height, xerr=spread.deviation, fmt=marker, ms=size, mew=1.6, color=colour, lw=1.2
        )


def _key(shades: Mapping[float, str]) -> list[Line2D]:
    """Return what stands for each budget and bound."""
    points = [
        Line2D([], [], marker="o", ls="", ms=5, color=colour, label=f"PFDM, epsilon {budget:g}")
        for budget, colour in shades.items()
    ]
    alone = Line2D(
        [], [], marker="|", ls="", ms=10, mew=1.6, color=COLOURS["local"], label="local-only there"
    )
    lines = [Line2D([], [], ls="--", lw=1, color=colour, label=name) for name, colour in BOUNDS.items()]
    return [*points, alone, *lines]
