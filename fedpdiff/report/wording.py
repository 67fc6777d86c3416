"""How methods, groups and numbers are written, the same in tables, figures and the page."""

from __future__ import annotations

import math

from fedpdiff.privacy.cautions import EMPTY_EPSILON
from fedpdiff.results import Group, Method, Results

GROUPS: tuple[Group, ...] = ("minority", "majority", "absent")
METHODS: dict[Method, str] = {
    "local": "local-only",
    "pfdm": "PFDM",
    "oracle": "oracle hand-off",
    "centralised": "centralised",
    "real": "real floor",
}
LARGE_EPSILON = EMPTY_EPSILON
NO_NUMBER = "–"


def method_title(method: Method, results: Results) -> str:
    """Return how a method is called; one that is not PFDM or its bounds says it in the results."""
    return METHODS.get(method, results.method_title)


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with at least ``digits`` significant digits, or a dash."""
    if value is None:
        return NO_NUMBER
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def epsilon(value: float | None) -> str:
    """Write an epsilon with up to three decimals, rounded up: a privacy loss is never understated."""
    if value is None:
        return NO_NUMBER
    thousandths = math.ceil(1000 * value - 1e-6)  # the tolerance: binary fractions of a value rounded before
    return f"{thousandths / 1000:,.3f}".rstrip("0").rstrip(".")


def percent(value: float | None) -> str:
    """Write a share as a whole percentage, or a dash."""
    return NO_NUMBER if value is None else f"{round(100 * value)} %"


def size(count: int) -> str:
    """Write a number of bytes in kB, MB or GB (powers of 1000)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{number(count / factor, 2)} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """Write a duration as hours and minutes, minutes and seconds, or seconds."""
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    if seconds >= 60:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{number(seconds, 2)} s"
