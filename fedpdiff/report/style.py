"""Colours and canvas of every figure."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#22262b"
# Wong's palette, told apart by colour-blind readers too.
COLOURS = {
    "real": "#6b7178",
    "local": "#c26a00",
    "global": "#a8527f",
    "pfdm": "#0062a8",
    "oracle": "#3d95c9",
    "centralised": "#00805c",
    "quiet": "#868c93",
}
BOUNDS = {"local-only": COLOURS["local"], "centralised": COLOURS["centralised"]}
"""Methods that others are measured against."""
CYCLE = (
    *(COLOURS[name] for name in ("pfdm", "local", "centralised", "global", "oracle")),
    *("#8a6d1f", "#5b5fc7", "#c2413b", "#4a8f9c", "#6b7178"),
)
_SETTINGS = {
    # Names of sites and classes come from elsewhere: a $ in them is no formula.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": "#b9bec4",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#4c5259",
    "ytick.color": "#4c5259",
}
_DPI = 200


def method_colour(method: str) -> str:
    """Return the colour of a method's samples and scores; other methods stand in PFDM's place."""
    return COLOURS.get(method, COLOURS["pfdm"])


P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw with these settings and leave matplotlib's own as they were."""

    @functools.wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_SETTINGS):
            return draw(*args, **kwargs)

    return inner


def figure(width: float, height: float) -> Figure:
    """Return an empty white figure of this size in inches, drawn without a display."""
    canvas = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(canvas)
    return canvas


def save(canvas: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in another script shows boxes
        canvas.savefig(temporary, format="png", metadata={"Software": None})
    os.replace(temporary, path)
    return path
