"""Figures of a sweep: distances by method, and how they move with traffic, epsilon, clients and settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from fedpdiff.report.style import BOUNDS, COLOURS, CYCLE, figure, save, styled
from fedpdiff.report.sweep_map import has_map
from fedpdiff.report.sweep_rows import BUDGETS, GROUPS, VARIANT, Row, Spread, SweepRows
from fedpdiff.report.sweep_sheet import draw_sheet
from fedpdiff.report.sweep_variants import draw_variants
from fedpdiff.report.sweep_words import name
from fedpdiff.results import Group


def draw_sweep(sweep: SweepRows, folder: Path) -> list[tuple[Path, str]]:
    """Draw what the sweep has material for; return each file with its caption."""
    drawn: list[tuple[Path | None, str]] = []
    if (sheet := draw_sheet(sweep, folder / "samples.png")) is not None:
        drawn.append(sheet)
    if len({row.method for row in sweep.rows} - set(BOUNDS)) > 1:
        caption = (
            "Frechet distance by method and group of classes, mean and spread over seeds; lower is better."
        )
        drawn.append((_methods(sweep, folder / "methods.png"), caption))
        caption = (
            "Bytes of one client, up and down together, against the distance of its rare classes; the lines "
            "are methods that send none."
        )
        drawn.append((_bytes(sweep, folder / "bytes.png"), caption))
    caption = (
        "Frechet distance against the exact epsilon of one image that PFDM's uploads have; lower is better. "
        "The lines are what a client makes alone, and what one model makes of everybody's images."
    )
    if VARIANT not in sweep.varied and not has_map(sweep):  # so many curves and lines would say nothing
        drawn.append((_epsilon(sweep, folder / "epsilon.png"), caption))
    elif (variants := draw_variants(sweep, folder / "variants.png")) is not None:
        drawn.append(variants)
    for key in sweep.varied:
        values = {row.point[key] for row in sweep.rows if key in row.point}
        numbers = len(values) > 1 and all(type(value) in (int, float) for value in values)
        if numbers and key not in ("method", *BUDGETS):
            caption = f"Frechet distance against {key}; lower is better."
            drawn.append((_against(sweep, key, folder / f"against-{key}.png"), caption))
            caption = (
                f"Share of the minority gap, from local-only to centralised, that is closed, against {key}."
            )
            drawn.append((_gap(sweep, key, folder / f"gap-{key}.png"), caption))
    return [(path, caption) for path, caption in drawn if path is not None]


@styled
def _methods(sweep: SweepRows, path: Path) -> Path | None:
    rows = [(row, row.minority) for row in sweep.rows]
    ranked = sorted(((row, s) for row, s in rows if s is not None), key=lambda pair: -pair[1].mean)
    if not ranked:
        return None
    canvas = figure(7.6, 0.8 + 0.32 * len(ranked))
    for place, group in enumerate(GROUPS):
        axes = canvas.add_subplot(1, 2, place + 1)
        for height, (row, _) in enumerate(ranked):
            spread = row.scores.get((group, "frechet"))
            if spread is not None:
                axes.errorbar(
                    spread.mean, height, xerr=spread.deviation, fmt="o", ms=4, color=_colour(row), lw=1.2
                )
        labels = [name(sweep, row) for row, _ in ranked]
        axes.set_yticks(range(len(ranked)), labels if place == 0 else [])
        axes.set_ylim(-0.6, len(ranked) - 0.4)
        axes.set_title(f"{group} classes", size=9.5, weight="bold", loc="left")
        axes.set_xlabel("Frechet distance (lower is better)")
    canvas.tight_layout()
    return save(canvas, path)


@styled
def _bytes(sweep: SweepRows, path: Path) -> Path | None:
    scored = [(row, row.minority) for row in sweep.rows]
    sending = [(row, s) for row, s in scored if s is not None and row.bytes_up + row.bytes_down > 0]
    if not sending:
        return None
    canvas = figure(6.4, 1.6 + 0.2 * max(len(sending), 8))
    axes = canvas.add_subplot()
    for row, spread in sending:
        axes.errorbar(
            (row.bytes_up + row.bytes_down) / 1e6,
            spread.mean,
            yerr=spread.deviation,
            fmt="o",
            ms=5,
            color=_colour(row),
            lw=1,
        )
    _level_lines(axes, sweep, "minority", [row for row, _ in sending])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_number))
    axes.set_xlabel("MB of one client, up and down")
    axes.set_ylabel("minority Frechet distance")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7)
    canvas.tight_layout(rect=(0, 0, 0.76, 1))
    _labels_beside(axes, [((r.bytes_up + r.bytes_down) / 1e6, s.mean, name(sweep, r)) for r, s in sending])
    return save(canvas, path)


def _labels_beside(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write labels in a column at the right, far enough apart, each with a line to its point."""
    low, high = axes.get_ylim()
    ranked = sorted(points, key=lambda point: point[1])
    step = min(0.075, 1.0 / max(len(ranked), 1))
    height = 0.0
    for count, (x, y, label) in enumerate(ranked):
        left = len(ranked) - count - 1
        height = max((y - low) / (high - low), height + step if count else 0.0)
        height = min(height, 1.0 - left * step)
        axes.annotate(
            label,
            (x, y),
            xytext=(1.06, height),
            textcoords="axes fraction",
            size=7,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#b9bec4", "lw": 0.6},
        )


@styled
def _epsilon(sweep: SweepRows, path: Path) -> Path | None:
    """Draw PFDM alone: other methods' epsilons have other units."""
    rows = [row for row in sweep.rows if row.epsilon is not None and row.minority is not None]
    if len({row.epsilon for row in rows}) < 2:
        return None
    return _panels(sweep, rows, lambda row: row.epsilon, BUDGETS, "epsilon of one image", path)


@styled
def _against(sweep: SweepRows, key: str, path: Path) -> Path | None:
    rows = [row for row in sweep.rows if key in row.point and row.minority is not None]
    if not rows:
        return None
    return _panels(sweep, rows, lambda row: float(row.point[key]), (key,), key, path)


def _panels(
    sweep: SweepRows,
    rows: Sequence[Row],
    x: Callable[[Row], float | None],
    along: Sequence[str],
    label: str,
    path: Path,
) -> Path:
    """Draw distances of both groups of classes against a number; rows without it become level lines."""
    canvas = figure(7.8, 3.8)
    for place, group in enumerate(GROUPS):
        axes = canvas.add_subplot(1, 2, place + 1)
        for title, some, colour in _curves(sweep, rows, along):
            _curve(axes, [(x(row), row.scores.get((group, "frechet"))) for row in some], title, colour, "o-")
            _curve(axes, [(x(row), row.oracle.get((group, "frechet"))) for row in some],
                   f"{title}, oracle hand-off", colour, ":")  # fmt: skip
        _level_lines(axes, sweep, group, rows)
        _scale(axes, [at for row in rows if (at := x(row)) is not None])
        axes.set_title(f"{group} classes", size=9.5, weight="bold", loc="left")
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
        if place == 0:
            axes.set_ylabel("Frechet distance")
            handles, labels = axes.get_legend_handles_labels()
    below = 0.03 + 0.05 * -(-len(labels) // 3)
    canvas.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=7)
    canvas.tight_layout(rect=(0, below, 1, 1))
    return save(canvas, path)


def _curves(sweep: SweepRows, rows: Sequence[Row], along: Sequence[str]) -> list[tuple[str, list[Row], str]]:
    """Return one curve for each method and each value of what else was varied: title, rows, colour."""
    curves: dict[str, list[Row]] = {}
    for row in rows:
        keys = [key for key in sweep.varied if key not in (*along, "method") and key in row.point]
        title = ", ".join([row.title, *(f"{key} {row.point[key]}" for key in keys)])
        curves.setdefault(title, []).append(row)
    spare = [colour for colour in CYCLE if colour not in BOUNDS.values()]
    return [
        (title, some, BOUNDS.get(some[0].method, spare[place % len(spare)]))
        for place, (title, some) in enumerate(curves.items())
    ]


def _level_lines(axes: Axes, sweep: SweepRows, group: Group, drawn: Sequence[Row]) -> None:
    """Draw local-only and centralised as lines with their spread, where the points do not hold them."""
    for method, colour in BOUNDS.items():
        rows = [row for row in sweep.rows if row.method == method]
        if any(row in drawn for row in rows):
            continue
        for row in rows:
            if (spread := row.scores.get((group, "frechet"))) is not None:
                axes.axhline(spread.mean, color=colour, lw=1.2, ls="--", label=name(sweep, row))
                around = spread.deviation or 0.0
                axes.axhspan(spread.mean - around, spread.mean + around, color=colour, alpha=0.12, lw=0)


def _curve(
    axes: Axes, points: Sequence[tuple[float | None, Spread | None]], title: str, colour: str, style: str
) -> None:
    """Draw means with their spreads, from left to right; nothing where there are no numbers."""
    drawn = sorted((at, s.mean, s.deviation or 0.0) for at, s in points if at is not None and s is not None)
    if drawn:
        at, means, deviations = zip(*drawn, strict=True)
        axes.errorbar(at, means, yerr=deviations, fmt=style, ms=4, lw=1.3, color=colour, label=title)


@styled
def _gap(sweep: SweepRows, key: str, path: Path) -> Path | None:
    rows = [row for row in sweep.rows if key in row.point and row.gap_closed is not None]
    if len({row.point[key] for row in rows}) < 2:
        return None
    canvas = figure(5.0, 3.2)
    axes = canvas.add_subplot()
    for title, some, colour in _curves(sweep, rows, (key,)):
        points = sorted((float(row.point[key]), 100 * (row.gap_closed or 0.0)) for row in some)
        axes.plot(*zip(*points, strict=True), "o-", ms=4, lw=1.3, color=colour, label=title)
    axes.axhline(0, color="#b9bec4", lw=0.8)
    _scale(axes, [float(row.point[key]) for row in rows])
    axes.set_xlabel(key)
    axes.set_ylabel("minority gap closed (%)")
    axes.legend(frameon=False, fontsize=7, loc="best")
    canvas.tight_layout()
    return save(canvas, path)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Mark the values themselves, on a logarithmic axis where they span much."""
    ticks = sorted(set(values))
    if ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]:
        axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks, [_number(value) for value in ticks])


def _number(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _colour(row: Row) -> str:
    return CYCLE[0] if row.method == "pfdm" else BOUNDS.get(row.method, COLOURS["quiet"])
