"""One measured figure: its values, its goal, whether the goal is met, and how it is shown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """What one benchmark found.

    Attributes
    ----------
    what
        What was measured, and against what.
    values
        One for each repetition.
    unit
        Such as ``"x"`` for a ratio.
    goal
        What the median is to be ``at least`` or ``at most``; None where a figure only informs.
    interval
        Ends of the 95 % interval of the mean, where one was computed.
    at
        Where it was measured, by name: what a chart draws it over.
    """

    what: str
    values: tuple[float, ...]
    unit: str
    goal: float | None = None
    bound: Literal["at least", "at most"] = "at least"
    interval: tuple[float, float] | None = None
    at: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.bound == "at least" else self.median <= self.goal

    def to_json(self) -> dict[str, Any]:
        """Return all of it, with median and whether the goal is met."""
        return asdict(self) | {"median": self.median, "met": self.met}


def markdown(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| measured | median | spread | goal | met |", "|---|---|---|---|---|"]
    for figure in figures:
        low, high = min(figure.values), max(figure.values)
        goal = "" if figure.goal is None else f"{figure.bound} {figure.goal:g} {figure.unit}"
        met = {None: "", True: "yes", False: "NO"}[figure.met]
        spread = f"{_short(low)} to {_short(high)}" if len(figure.values) > 1 else "measured once"
        if figure.interval:
            spread += "; mean in {:.3g} to {:.3g}".format(*figure.interval)
        lines.append(f"| {figure.what} | {_short(figure.median)} {figure.unit} | {spread} | {goal} | {met} |")
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    """Write three digits, or all whole ones of a large number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
