"""Text from strangers on one line: nothing in it acts on a terminal, a log or the direction of reading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.plain import plain_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("clip = 3: must be 4", "clip = 3: must be 4"),
        ("医院, Süd, café", "医院, Süd, café"),
        ("one\r\n  two\n\nthree\u2028four", "one; two; three; four"),
        ("\x1b[31mred\x1b[0m\x07", r"\x1b[31mred\x1b[0m\x07"),
        ("a\u202eb\u2066c\u200d", r"a\u202eb\u2066c\u200d"),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_lines(text: str, line: str) -> None:
    assert plain_line(text) == line


@given(st.text(st.characters(), max_size=300), st.integers(3, 50))
def test_any_text_is_one_visible_line_of_that_length(text: str, longest: int) -> None:
    line = plain_line(text, longest)
    assert line.isprintable() and len(line) <= longest
    if text.isprintable() and text == text.strip() and len(text) <= longest:
        assert line == text


def test_what_was_cut_says_so() -> None:
    assert plain_line("x" * 10**6, 10) == "xxxxxxx..."
    assert plain_line("\n" * 10**6 + "x", 10) == "..."
