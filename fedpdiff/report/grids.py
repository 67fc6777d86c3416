"""Pictures of samples: rows are classes, columns samples, panels the methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fedpdiff.report.run_files import RunFiles
from fedpdiff.report.style import COLOURS, figure, method_colour, save, styled
from fedpdiff.results import ClientResults, Group

PANELS = {
    "real": "real images",
    "local": "local-only",
    "global": "handed over",
    "pfdm": "PFDM",
    "oracle": "oracle hand-off",
}
RARE: tuple[Group, ...] = ("minority", "absent")
_MAX_ROWS = 10  # classes shown per group
_GAP = 0.12  # between images, as a share of their side


@dataclass(frozen=True)
class Rows:
    """Classes of one group, one row each."""

    group: str
    classes: tuple[int, ...]


@styled
def client_grid(run: RunFiles, client: ClientResults, path: Path, columns: int = 7) -> Path | None:
    """Draw every panel of one client, rare classes first; ``None`` when it has no samples."""
    panels = {name: run.samples(client.client, name) for name in _names(run)}
    rows = _rows(client, panels)
    return _draw(run, panels, rows, path, columns, inch=0.29)


@styled
def hero(run: RunFiles, client: ClientResults, path: Path, columns: int = 10) -> Path | None:
    """Draw one client's rare classes: real, local-only and the method's, for the top of a page."""
    panels = {name: run.samples(client.client, name) for name in ("real", "local", run.results.method)}
    rows = [part for part in _rows(client, panels) if part.group in RARE]
    return _draw(run, panels, rows, path, columns, inch=0.36)


def _names(run: RunFiles) -> list[str]:
    """Return the panels in their order; another method than PFDM stands after what it is compared with."""
    return list(PANELS) + [run.results.method] * (run.results.method not in PANELS)


def _rows(client: ClientResults, panels: dict[str, dict[int, np.ndarray]]) -> list[Rows]:
    groups: tuple[Group, ...] = (*RARE, "majority")
    present = {label for images in panels.values() for label in images}
    rows = [Rows(group, tuple(client.classes.get(group, []))[:_MAX_ROWS]) for group in groups]
    known = {label for part in rows for label in part.classes}
    if not known:
        rows = [Rows("", tuple(sorted(present))[:_MAX_ROWS])]
    return [part for part in rows if present & set(part.classes)]


def _draw(
    run: RunFiles,
    panels: dict[str, dict[int, np.ndarray]],
    rows: Sequence[Rows],
    path: Path,
    columns: int,
    inch: float,
) -> Path | None:
    shown = {name: images for name, images in panels.items() if images}
    if not shown or not rows:
        return None
    heights = [len(part.classes) * inch for part in rows]
    left, top, between = _label_width(run, rows), 0.34, 0.12
    width = left + len(shown) * columns * inch + (len(shown) - 1) * between + 0.05
    height = top + sum(heights) + between * (len(rows) - 1) + 0.05
    canvas = figure(width, height)
    for panel, (name, images) in enumerate(shown.items()):
        x, y = left + panel * (columns * inch + between), height - top
        for part, part_height in zip(rows, heights, strict=True):
            y -= part_height
            box = (x / width, y / height, columns * inch / width, part_height / height)
            _panel(canvas, box, tile(images, part.classes, columns))
            y -= between
        place = ((x + columns * inch / 2) / width, 1 - 0.11 / height)
        canvas.text(
            *place,
            PANELS.get(name, run.results.method_title),
            ha="center",
            va="top",
            color=method_colour(name),
            weight="bold",
            size=9,
        )
    _row_labels(canvas, run, rows, (width, height), (left, top, between, inch))
    return save(canvas, path)


def _panel(canvas: Figure, box: tuple[float, float, float, float], picture: np.ndarray) -> None:
    axes = canvas.add_axes(box)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def _row_labels(
    canvas: Figure,
    run: RunFiles,
    rows: Sequence[Rows],
    size: tuple[float, float],
    layout: tuple[float, float, float, float],
) -> None:
    """Write class names beside the rows and the group's name, turned, beside its block."""
    (width, height), (left, top, between, inch) = size, layout
    names, y = run.results.class_names, height - top
    for part in rows:
        for label in part.classes:
            place = ((left - 0.08) / width, (y - inch / 2) / height)
            canvas.text(*place, _name(names, label), ha="right", va="center", size=8)
            y -= inch
        middle = y + len(part.classes) * inch / 2
        colour = COLOURS["pfdm"] if part.group in RARE else COLOURS["quiet"]
        place = (0.1 / width, middle / height)
        canvas.text(*place, part.group, rotation=90, ha="center", va="center", weight="bold", color=colour)
        y -= between


def _name(names: Sequence[str], label: int) -> str:
    name = names[label] if label < len(names) else str(label)
    return name if len(name) <= 14 else name[:13] + "…"


def _label_width(run: RunFiles, rows: Sequence[Rows]) -> float:
    """Return the inches that the longest class name and the group's name need."""
    longest = max(len(_name(run.results.class_names, label)) for part in rows for label in part.classes)
    return 0.36 + 0.075 * longest


def tile(images: dict[int, np.ndarray], classes: Sequence[int], columns: int) -> np.ndarray:
    """Lay images out, one class per row, on white; small images are enlarged without smoothing.

    Parameters
    ----------
    images
        By class, uint8 of shape (N, C, H, W); all of one shape.
    classes
        The rows, from the top; a class without images leaves its row white.
    columns
        Images per row.

    Returns
    -------
    np.ndarray
        uint8, shape (rows, columns, 3) in pixels.
    """
    height, width = next(iter(images.values())).shape[2:]
    scale = max(1, -(-64 // height))
    step_y, step_x = (round(side * scale * (1 + _GAP)) for side in (height, width))
    canvas = np.full((len(classes) * step_y, columns * step_x, 3), 255, dtype=np.uint8)
    for row, label in enumerate(classes):
        for column, image in enumerate(images.get(label, [])[:columns]):
            large = image.repeat(scale, axis=1).repeat(scale, axis=2).transpose(1, 2, 0)
            y, x = row * step_y, column * step_x
            canvas[y : y + large.shape[0], x : x + large.shape[1]] = large
    return canvas
