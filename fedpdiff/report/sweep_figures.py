"""Figures of a sweep: distances by method, and how they move with each setting that was varied."""

from __future__ import annotations

from pathlib import Path

from fedpdiff.report.style import CYCLE, figure, save, styled
from fedpdiff.report.sweep_rows import Row, SweepRows
from fedpdiff.results import Group

_GROUPS: tuple[Group, ...] = ("minority", "majority")


def draw_sweep(sweep: SweepRows, folder: Path) -> list[tuple[Path, str]]:
    """Draw what the sweep has material for; return each file with its caption."""
    drawn = []
    if "method" in sweep.varied:
        caption = (
            "Frechet distance by method and group of classes, mean and spread over seeds; lower is better."
        )
        drawn.append((_methods(sweep, folder / "methods.png"), caption))
        caption = "Bytes of one client, up and down together, against the distance of its rare classes."
        drawn.append((_bytes(sweep, folder / "bytes.png"), caption))
    for key in sweep.varied:
        values = {row.point[key] for row in sweep.rows}
        if key != "method" and len(values) > 1 and all(type(value) in (int, float) for value in values):
            caption = f"Frechet distance of rare classes against {key}; lower is better."
            drawn.append((_against(sweep, key, folder / f"against-{key}.png"), caption))
    return [(path, caption) for path, caption in drawn if path is not None]


@styled
def _methods(sweep: SweepRows, path: Path) -> Path | None:
    rows = [row for row in sweep.rows if ("minority", "frechet") in row.scores]
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: -row.scores["minority", "frechet"].mean)
    canvas = figure(7.6, 0.8 + 0.32 * len(rows))
    for place, group in enumerate(_GROUPS):
        axes = canvas.add_subplot(1, 2, place + 1)
        for height, row in enumerate(rows):
            spread = row.scores.get((group, "frechet"))
            if spread is not None:
                colour = CYCLE[0] if row.method == "pfdm" else "#868c93"
                axes.errorbar(spread.mean, height, xerr=spread.deviation, fmt="o", ms=4, color=colour, lw=1.2)
        axes.set_yticks(range(len(rows)), [_label(sweep, row) for row in rows] if place == 0 else [])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_title(f"{group} classes", size=9.5, weight="bold", loc="left")
        axes.set_xlabel("Frechet distance (lower is better)")
    canvas.tight_layout()
    return save(canvas, path)


@styled
def _bytes(sweep: SweepRows, path: Path) -> Path | None:
    rows = [row for row in sweep.rows if ("minority", "frechet") in row.scores]
    rows = [row for row in rows if row.bytes_up + row.bytes_down > 0]
    if not rows:
        return None
    canvas = figure(5.6, 3.4)
    axes = canvas.add_subplot()
    for row in rows:
        x, y = (row.bytes_up + row.bytes_down) / 1e6, row.scores["minority", "frechet"].mean
        axes.plot(x, y, "o", ms=5, color=CYCLE[0] if row.method == "pfdm" else "#868c93")
        axes.annotate(_label(sweep, row), (x, y), textcoords="offset points", xytext=(5, 3), size=7)
    axes.set_xscale("log")
    axes.set_xlabel("MB of one client, up and down")
    axes.set_ylabel("minority Frechet distance")
    canvas.tight_layout()
    return save(canvas, path)


@styled
def _against(sweep: SweepRows, key: str, path: Path) -> Path | None:
    lines: dict[str, list[Row]] = {}
    for row in sweep.rows:
        if ("minority", "frechet") in row.scores:
            rest = [str(row.point[other]) for other in sweep.varied if other not in (key, "method")]
            lines.setdefault(" ".join([row.title, *rest]), []).append(row)
    if not lines:
        return None
    canvas = figure(5.6, 3.4)
    axes = canvas.add_subplot()
    for place, (name, rows) in enumerate(lines.items()):
        rows = sorted(rows, key=lambda row: float(row.point[key]))
        spreads = [row.scores["minority", "frechet"] for row in rows]
        axes.errorbar(
            [float(row.point[key]) for row in rows],
            [spread.mean for spread in spreads],
            yerr=[spread.deviation or 0.0 for spread in spreads],
            fmt="o-",
            ms=4,
            lw=1.3,
            color=CYCLE[place % len(CYCLE)],
            label=name,
        )
    axes.set_xscale("log")
    axes.set_xlabel(key)
    axes.set_ylabel("minority Frechet distance")
    axes.legend(frameon=False, fontsize=7)
    canvas.tight_layout()
    return save(canvas, path)


def _label(sweep: SweepRows, row: Row) -> str:
    rest = [f"{key} {row.point[key]}" for key in sweep.varied if key != "method"]
    return ", ".join([row.title, *rest])
