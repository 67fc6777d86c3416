"""Text from strangers as one line that shows what it is: it cannot forge a log line or colour a terminal."""

from __future__ import annotations

LONGEST = 1000


def plain_line(text: str, longest: int = LONGEST) -> str:
    """Return text as one line of visible characters.

    Lines are joined by semicolons; control characters (ANSI sequences begin with one), invisible ones and
    those that turn the direction of writing are shown as their escapes, ``\\x1b``; what is too long is cut.

    Parameters
    ----------
    text
        Anything.
    longest
        Most characters of the result.
    """
    lines = (line.strip() for line in text[: 4 * longest].splitlines())
    line = "; ".join(line for line in lines if line)
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return line if len(line) <= longest and len(text) <= 4 * longest else line[: longest - 3] + "..."
