"""A sheet of samples: one row of one client's images for each row of a sweep's table, real images above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedpdiff.report.grids import RARE, tile
from fedpdiff.report.run_files import RunFiles
from fedpdiff.report.style import COLOURS, figure, save, styled
from fedpdiff.report.sweep_rows import Row, SweepRows
from fedpdiff.report.sweep_table import ordered
from fedpdiff.report.sweep_words import name
from fedpdiff.results import ClientResults

_MAX_ROWS = 16
_MAX_CLASSES = 5
_PER_CLASS = 3
_INCH = 0.3

_Strips = list[np.ndarray]  # one for each group of classes


@styled
def draw_sheet(sweep: SweepRows, path: Path) -> tuple[Path, str] | None:
    """Draw the first client's samples of the first seed; None where the folders hold none."""
    lines = []
    for row in ordered(sweep)[:_MAX_ROWS]:
        strips = _strips(row.runs[0].files, row.column)
        if strips:
            lines.append((name(sweep, row), strips, _colour(row)))
    first = next((row for row in ordered(sweep) if lines and _client(row)), None)
    if first is None:
        return None
    real = _strips(first.runs[0].files, "real")
    if real:
        lines.insert(0, ("real images", real, COLOURS["real"]))
    shapes = [strip.shape for strip in lines[0][1]]
    lines = [line for line in lines if [strip.shape for strip in line[1]] == shapes]
    caption = (
        f"Samples of {first.runs[0].results.clients[0].name}, seed {first.seeds[0]}: the first of each "
        f"class, not the best; rare classes stand left. At most {_MAX_ROWS} rows of the table are shown."
    )
    return _draw(lines, path), caption


def _colour(row: Row) -> str:
    return COLOURS.get(row.column, COLOURS["quiet"])


def _client(row: Row) -> ClientResults | None:
    clients = row.runs[0].results.clients
    return clients[0] if clients else None


def _strips(run: RunFiles, column: str) -> _Strips:
    """Return a strip of images of each group of classes, uint8 of shape (height, width, 3)."""
    if not run.results.clients:
        return []
    client = run.results.clients[0]
    images = run.samples(client.client, column)
    strips = []
    for group in (*RARE, "majority"):
        classes = [label for label in client.classes.get(group, []) if label in images][:_MAX_CLASSES]
        if classes:
            chosen = np.concatenate([images[label][:_PER_CLASS] for label in classes])
            strips.append(tile({0: chosen}, [0], len(classes) * _PER_CLASS))
    return strips


def _draw(lines: Sequence[tuple[str, _Strips, str]], path: Path) -> Path:
    left, between, top = 0.35 + 0.065 * max(len(label) for label, *_ in lines), 0.12, 0.05
    widths = [strip.shape[1] / strip.shape[0] * _INCH for strip in lines[0][1]]
    width = left + sum(widths) + between * (len(widths) - 1) + 0.05
    height = top + _INCH * len(lines) + 0.05
    canvas = figure(width, height)
    for place, (label, strips, colour) in enumerate(lines):
        y = height - top - (place + 1) * _INCH
        canvas.text((left - 0.08) / width, (y + _INCH / 2) / height, label, ha="right", va="center", size=8,
                    color=colour, weight="bold")  # fmt: skip
        x = left
        for strip, part in zip(strips, widths, strict=True):
            axes = canvas.add_axes((x / width, y / height, part / width, _INCH / height))
            axes.imshow(strip, vmin=0, vmax=255, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            x += part + between
    return save(canvas, path)
