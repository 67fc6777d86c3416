"""The map of a sweep as heat maps: gain over local-only, gap closed, oracle hand-off, and the advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from fedpdiff.report.style import COLOURS, INK, figure, save, styled
from fedpdiff.report.sweep_map import Cell

_COLOURS = LinearSegmentedColormap.from_list("gain", [COLOURS["local"], "#f7f7f5", COLOURS["pfdm"]])
_Value = Callable[[Cell], float | None]

_PANELS: tuple[tuple[str, _Value], ...] = (
    ("gain over local-only", lambda cell: cell.gain.mean if cell.gain else None),
    ("expected by fedpdiff advise", lambda cell: cell.expected.gain if cell.expected else None),
    ("gap to centralised closed", lambda cell: cell.gap_closed),
    ("gain of the oracle hand-off", lambda cell: cell.oracle.mean if cell.oracle else None),
    ("absent classes recognised", lambda cell: cell.recognised.mean if cell.recognised else None),
)


@styled
def draw_map(cells: Sequence[Cell], path: Path) -> tuple[Path, str] | None:
    """Draw the panels that there are numbers for; None where there is no map."""
    panels = [(title, value) for title, value in _PANELS if any(value(cell) is not None for cell in cells)]
    if not panels:
        return None
    rows = len({cell.minority for cell in cells})
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    canvas = figure(0.4 + 2.7 * across, down * (0.9 + 0.42 * rows))
    for place, (title, value) in enumerate(panels):
        axes = canvas.add_subplot(down, across, place + 1)
        _panel(axes, cells, value, signed=title != "absent classes recognised")
        axes.set_title(title, size=9, weight="bold", loc="left")
        axes.set_xlabel("epsilon of one image")
        if place % across == 0:
            axes.set_ylabel("images of a rare class")
    canvas.tight_layout()
    caption = (
        "Where collaborating pays: share of local-only's distance of rare classes that is taken away (blue; "
        "orange: added), and share of the way to centralised, by epsilon and images of each rare class. A "
        "dash means that there is no number."
    )
    return save(canvas, path), caption


def _panel(axes: Axes, cells: Sequence[Cell], value: _Value, signed: bool) -> None:
    epsilons = sorted({cell.epsilon for cell in cells})
    numbers = sorted({cell.minority for cell in cells})
    grid = np.full((len(numbers), len(epsilons)), np.nan)
    for cell in cells:
        found = value(cell)
        if found is not None:
            grid[numbers.index(cell.minority), epsilons.index(cell.epsilon)] = 100 * found
    most = 60 if signed else 100
    axes.imshow(grid, cmap=_COLOURS, vmin=-most, vmax=most, origin="lower", aspect="auto")
    for (row, column), number in np.ndenumerate(grid):
        text = "–" if np.isnan(number) else f"{round(number)} %"
        dark = not np.isnan(number) and abs(number) > 0.6 * most
        axes.text(column, row, text, ha="center", va="center", size=8, color="white" if dark else INK)
    axes.set_xticks(range(len(epsilons)), [f"{epsilon:g}" for epsilon in epsilons])
    axes.set_yticks(range(len(numbers)), [str(number) for number in numbers])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
