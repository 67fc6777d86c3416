"""How much is fuzzed: the same cases every time, or with ``FEDPDIFF_FUZZ=9000`` so many new ones per test."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_MORE = os.environ.get("FEDPDIFF_FUZZ", "")


def cases(count: int) -> Any:
    """Return the settings of a test with so many cases; no case may be lost to a slow machine."""
    return settings(
        max_examples=int(_MORE or count),
        derandomize=not _MORE,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


@st.composite
def mutated_text(draw: st.DrawFn, text: str, fragments: st.SearchStrategy[str]) -> str:
    """Draw ``text`` with some places replaced by fragments of what may be written there."""
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        end = begin + draw(st.integers(0, 12))
        text = text[:begin] + draw(fragments) + text[end:]
    return text
