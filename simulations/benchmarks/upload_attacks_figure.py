"""Figures of the benchmark of attacks on uploads: rates over t0 beside the caps, and what is recovered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fedpdiff.report.style import COLOURS, figure, styled

NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "coloured mnist": "Coloured MNIST"}
_DPI = 100


@styled
def draw_chart(result: dict[str, Any], path: Path) -> Path:
    """Draw one row per data set: re-identification, recovery and membership, attributes."""
    names = list(result["measured"])
    canvas = figure(9.6, 2.75 * len(names) + 0.3)
    for row, name in enumerate(names):
        axes = [canvas.add_subplot(len(names), 3, 3 * row + column + 1) for column in range(3)]
        levels = [int(level) for level in result["measured"][name]]
        _identities(axes[0], levels, result, name)
        _reconstructions(axes[1], levels, result, name)
        _attributes(axes[2], result["attributes"], name)
        axes[0].set_ylabel(NAMES[name], weight="bold", size=10)
        for one in axes:
            one.set_xlabel("t0")
            one.grid(axis="y", linewidth=0.4, alpha=0.6)
    canvas.tight_layout(w_pad=1.6)
    return _save(canvas, path)


def draw_pictures(originals: np.ndarray, rows: dict[str, np.ndarray], path: Path) -> Path:
    """Draw clipped originals above uploads and reconstructions, one column per image."""
    return _pictures({"clipped original": originals, **rows}, path)


@styled
def _pictures(rows: dict[str, np.ndarray], path: Path) -> Path:
    count = len(next(iter(rows.values())))
    canvas = figure(0.62 * count + 1.5, 0.64 * len(rows) + 0.1)
    grid = canvas.subplots(len(rows), count, gridspec_kw={"wspace": 0.05, "hspace": 0.05})
    contrast = float(np.quantile(np.abs(rows["clipped original"]), 0.995))
    for line, (title, images) in zip(grid, rows.items(), strict=True):
        # noise is far beyond the range of the images: each row of uploads has its own scale
        scale = max(contrast, float(np.quantile(np.abs(images), 0.99)))
        for axes, image in zip(line, images, strict=True):
            shown = np.clip(0.5 + 0.5 * image.transpose(1, 2, 0) / scale, 0, 1)
            axes.imshow(shown.squeeze(), cmap="grey", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
        line[0].text(-0.15, 0.5, title, transform=line[0].transAxes, ha="right", va="center", size=7.5)
    canvas.subplots_adjust(left=1.45 / (0.62 * count + 1.5), right=0.995, top=0.99, bottom=0.01)
    return _save(canvas, path)


def _save(canvas: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})
    return path


def _series(
    axes: Axes, levels: list[int], result: dict[str, Any], name: str, metric: str, column: int, colour: str
) -> None:
    rows = [result["measured"][name][str(level)][metric] for level in levels]
    mean = np.array([row["mean"] for row in rows])
    error = 2 * np.array([row["error_of_one_draw"] for row in rows])
    axes.errorbar(levels, mean, yerr=error, color=colour, marker="o", markersize=3, linewidth=1.2,
                  capsize=2, label=metric)  # fmt: skip
    known = [level for level in levels if str(level) in result["reference"][name]]
    values = [result["reference"][name][str(level)][column] for level in known]
    axes.plot(known, values, linestyle="", marker="x", color=colour, markersize=6, alpha=0.8)


def _identities(axes: Axes, levels: list[int], result: dict[str, Any], name: str) -> None:
    for column, (metric, cap, colour) in enumerate(
        (("re-identified", "cap", COLOURS["pfdm"]), ("in class", "in-class cap", COLOURS["local"]))
    ):
        _series(axes, levels, result, name, metric, column, colour)
        caps = [result["measured"][name][str(level)][cap] for level in levels]
        axes.plot(levels, caps, "--", color=colour, linewidth=0.9)
    axes.set_yscale("log")
    axes.set_ylim(5e-4, 1.4)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.axhline(1 / result["settings"]["members"], color=COLOURS["quiet"], linewidth=0.7, linestyle=":")
    axes.set_title("uploads matched to their image\n(-- cap, ... chance, x reference)", size=8.5, loc="left")
    axes.legend(frameon=False, fontsize=7)


def _reconstructions(axes: Axes, levels: list[int], result: dict[str, Any], name: str) -> None:
    _series(axes, levels, result, name, "recovery", 2, COLOURS["centralised"])
    _series(axes, levels, result, name, "membership AUC", 3, COLOURS["global"])
    caps = [result["theory"][str(level)]["AUC cap"] for level in levels]
    axes.plot(levels, caps, "--", color=COLOURS["global"], linewidth=0.9)
    axes.set_ylim(0.35, 1.05)
    axes.set_title("recovery (1 = nothing gained) and\nmembership AUC (0.5 = chance)", size=8.5, loc="left")
    axes.legend(frameon=False, fontsize=7, loc="lower center")


def _attributes(axes: Axes, found: dict[str, Any], name: str) -> None:
    shown = [("class", name, COLOURS["pfdm"])]
    if name == "mnist":
        shown.append(("colour", "coloured mnist", COLOURS["local"]))
    for attribute, where, colour in shown:
        rows = found.get(where, {}).get(attribute)
        if not rows:
            continue
        levels = [int(level) for level in rows]
        best = [max(row["gaussian"], row["network"]) for row in rows.values()]
        mean = np.array([one[0] for one in best])
        ends = np.abs(np.array([one[1:] for one in best]).T - mean)
        label = f"{attribute} ({NAMES[where]})"
        axes.errorbar(levels, mean, yerr=ends, color=colour, marker="o", markersize=3, linewidth=1.2,
                      capsize=2, label=label)  # fmt: skip
        axes.plot(levels, [row["cap"] for row in rows.values()], "--", color=colour, linewidth=0.9)
        axes.plot(levels, [row["chance"] for row in rows.values()], ":", color=colour, linewidth=0.9)
        axes.legend(frameon=False, fontsize=7)
    axes.set_ylim(0, 1.3)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_title("read from one upload\n(-- cap, ... chance)", size=8.5, loc="left")
