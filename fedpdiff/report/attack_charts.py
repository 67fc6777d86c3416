"""Figures of the attacks: ROC with the cap, noise levels compared, epsilon measured, images recovered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from fedpdiff.attack_results import RECOVERED_FILE, AttackResults, Epsilon, Membership
from fedpdiff.errors import RunError
from fedpdiff.privacy import ceilings
from fedpdiff.report.style import COLOURS, INK, figure, save, styled

_TARGET_COLOURS = {"uploads": "pfdm", "global model": "global", "personal model": "local"}
_MOST_ROWS = 5  # noise levels of which images are shown
_GAP = 0.1  # between images, as a share of their side


@styled
def roc(results: AttackResults, path: Path) -> Path | None:
    """Draw the ROC curve of the strongest attack on each target, on logarithmic axes, under the cap."""
    strongest = _strongest(results.membership)
    if not strongest:
        return None
    canvas = figure(5.2, 4.1)
    axes = canvas.add_subplot()
    least = min(0.5 / row.non_members for row in strongest)
    grid = np.geomspace(least, 1, 200)
    mu = float(results.privacy["mu"])
    allowed = [ceilings.tpr_at_fpr(mu, float(fpr)) if fpr < 1 else 1.0 for fpr in grid]
    axes.fill_between(grid, allowed, 1.0, color="#eceff2", lw=0)
    axes.plot(grid, allowed, color=INK, lw=1.3, label="cap: most that the guarantee allows")
    axes.plot(grid, grid, color=COLOURS["quiet"], lw=1, ls=":", label="guessing")
    for row in strongest:
        name = f"{row.target}{f' of {row.client}' if row.client else ''}: {row.attack}"
        style = "-" if row.protected else "--"
        axes.plot(row.curve.fpr, row.curve.tpr, style, color=_colour(row.target), lw=1.5,
                  label=name + ("" if row.protected else " (not protected)"))  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(least, 1)
    axes.set_ylim(least, 1.05)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("strangers taken for members (false positives)")
    axes.set_ylabel("members recognised (true positives)")
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    canvas.tight_layout()
    return save(canvas, path)


@styled
def levels(results: AttackResults, path: Path) -> Path | None:
    """Draw over t0: uploads matched to their image, what an upload shows, and how well images are rebuilt."""
    if not results.reidentification:
        return None
    canvas = figure(7.8, 2.75)
    panels: tuple[Callable[[Axes, AttackResults], None], ...] = (_matched, _read, _rebuilt)
    for place, draw in enumerate(panels):
        axes = canvas.add_subplot(1, 3, place + 1)
        draw(axes, results)
        axes.axvline(results.privacy["t0"], color=COLOURS["quiet"], lw=0.9, label="this run")
        axes.set_xlabel("noise level t0")
        axes.legend(frameon=False, fontsize=7)
    canvas.tight_layout()
    return save(canvas, path)


def _matched(axes: Axes, results: AttackResults) -> None:
    rows = [row for row in results.reidentification if row.gallery.startswith("all")]
    t0 = [row.t0 for row in rows]
    axes.plot(t0, [row.cap for row in rows], color=INK, lw=1.2, label="cap")
    axes.plot(
        t0, [row.rate.value for row in rows], "o-", ms=3, color=COLOURS["pfdm"], lw=1.4, label="measured"
    )
    axes.plot(t0, [row.chance for row in rows], ":", color=COLOURS["quiet"], lw=1.2, label="guessing")
    _shares(axes, f"Whose upload is it?\n({rows[0].candidates:.0f} candidates)")


def _read(axes: Axes, results: AttackResults) -> None:
    for number, name in enumerate(dict.fromkeys(row.attribute for row in results.attributes)):
        rows = [row for row in results.attributes if row.attribute == name]
        t0 = sorted({row.t0 for row in rows})
        colour = (COLOURS["local"], COLOURS["centralised"])[number % 2]
        best = [max(row.accuracy.value for row in rows if row.t0 == t) for t in t0]
        chance = [next(row.chance for row in rows if row.t0 == t) for t in t0]
        axes.plot(t0, best, "o-", ms=3, color=colour, lw=1.4, label=f"{name} read rightly")
        axes.plot(t0, chance, ":", color=colour, lw=1.2, label="guessing" if not number else None)
    _shares(axes, "What does an upload show?\n(from one upload alone)")


def _rebuilt(axes: Axes, results: AttackResults) -> None:
    t0 = sorted({row.t0 for row in results.recovery})
    best = [min(min(r.score, r.trusted) for r in results.recovery if r.t0 == t) for t in t0]
    axes.plot(t0, best, "o-", ms=3, color=COLOURS["global"], lw=1.4, label="strongest attack")
    axes.axhline(1, ls=":", color=COLOURS["quiet"], lw=1.2, label="nothing gained")
    axes.set_ylim(0, 1.12)
    _title(axes, "Rebuilding the image\n(error left; 0 is perfect)")


def _shares(axes: Axes, title: str) -> None:
    axes.set_ylim(0, 1.12)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _title(axes, title)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, size=9, weight="bold", loc="left")


@styled
def epsilon(results: AttackResults, path: Path) -> Path | None:
    """Draw epsilon as measured, as intervals or lower ends, beside the stated one."""
    rows = [row for row in results.epsilon if row.low is not None]
    if not rows:
        return None
    canvas = figure(7.0, 0.95 + 0.38 * len(rows))
    axes = canvas.add_subplot()
    stated = max(row.theory for row in rows)
    right = 1.12 * max([stated, *(row.high for row in rows if row.high is not None)])
    for place, row in enumerate(rows):
        _epsilon_row(axes, place, row, right)
    axes.axvline(stated, color=INK, lw=1.3)
    axes.annotate(f"stated: {stated:g}", (stated, -0.75), (0, 2), textcoords="offset points", size=7.5,
                  ha="center", va="bottom", annotation_clip=False)  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"{row.source}\n{row.assumption}" for row in rows], size=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlim(0, right)
    axes.set_xlabel("epsilon of one image (99.9 % confidence)")
    axes.tick_params(axis="y", length=0)
    canvas.tight_layout()
    return save(canvas, path)


def _epsilon_row(axes: Axes, place: int, row: Epsilon, right: float) -> None:
    low = row.low or 0.0
    if row.high is not None:
        axes.barh(place, row.high - low, left=low, height=0.34, color=COLOURS["pfdm"])
        return
    axes.plot([low, low], [place - 0.17, place + 0.17], color=COLOURS["pfdm"], lw=2)
    arrow = {"arrowstyle": "->", "color": COLOURS["oracle"], "lw": 1.1}
    axes.annotate("", (low + 0.07 * right, place), (low, place), arrowprops=arrow)
    axes.text(low + 0.08 * right, place, f"at least {low:.2f}", va="center", size=7.5)


@styled
def recovered(results: AttackResults, folder: Path, path: Path) -> Path | None:
    """Draw originals, uploads and the best reconstructions at several levels; ``None`` without the file.

    Raises
    ------
    RunError
        When the file is damaged.
    """
    source = folder / RECOVERED_FILE
    if not source.is_file():
        return None
    try:
        with np.load(source, allow_pickle=False) as stored:
            kept = {
                name: stored[name]
                for name in ("levels", "attacks", "originals", "guesses", "uploads", "recovered")
            }
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{source} is damaged ({type(error).__name__}); run fedpdiff attack again") from error
    own = int(results.privacy["t0"])
    chosen = _some(kept["levels"].tolist(), own)
    rows: list[tuple[str, NDArray[np.float64]]] = [
        ("original", kept["originals"]),
        ("guess without any upload:\nmean of public images\nof the class", kept["guesses"]),
    ]
    epsilons = {row.t0: row.epsilon for row in results.reidentification}
    for index in chosen:
        level = int(kept["levels"][index])
        mark = " (this run)" if level == own else ""
        stated = epsilons.get(level)
        below = "" if stated is None else f"\nepsilon {stated:.3g} of one image"
        rows.append((f"upload at t0 = {level}{mark}{below}", kept["uploads"][index]))
        attack = str(kept["attacks"][index]).replace(", ", ",\n")
        rows.append((f"recovered by {attack}", kept["recovered"][index]))
    return _grid(rows, path)


def _grid(rows: list[tuple[str, NDArray[np.float64]]], path: Path) -> Path:
    columns, inch, left = len(rows[0][1]), 0.62, 1.95
    heights = [inch + (0.16 if number % 2 else 0.0) for number in range(len(rows))]  # rows come in pairs
    width, height = left + columns * inch + 0.05, sum(heights) + 0.05
    canvas = figure(width, height)
    y = height - 0.03
    for (label, images), tall in zip(rows, heights, strict=True):
        y -= inch
        for column, image in enumerate(images):
            side = inch * (1 - _GAP)
            box = ((left + column * inch) / width, y / height, side / width, side / height)
            axes = canvas.add_axes(box)
            picture = (image.astype(np.float64).clip(-1, 1) + 1) / 2
            axes.imshow(
                picture.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
            )
            axes.set_axis_off()
        canvas.text((left - 0.1) / width, (y + inch / 2) / height, label, ha="right", va="center", size=7.5)
        y -= tall - inch
    return save(canvas, path)


def _some(present: list[int], own: int) -> list[int]:
    """Return positions of at most :data:`_MOST_ROWS` levels, the run's own among them, lowest first."""
    if len(present) <= _MOST_ROWS:
        return list(range(len(present)))
    others = [i for i, level in enumerate(present) if level != own]
    step = np.linspace(0, len(others) - 1, _MOST_ROWS - 1).round().astype(int)
    return sorted({others[i] for i in step} | {present.index(own)})


def _strongest(rows: list[Membership]) -> list[Membership]:
    """Return the working attack with the largest AUC on each target."""
    best: dict[str, Membership] = {}
    for row in rows:
        known = best.get(row.target)
        if row.works is not False and (known is None or row.auc.value > known.auc.value):
            best[row.target] = row
    return list(best.values())


def _colour(target: str) -> str:
    return COLOURS[_TARGET_COLOURS.get(target, "quiet")]
