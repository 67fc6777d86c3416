"""Under which licence a model is published: an identifier, a text, or none that is stated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from fedpdiff.errors import ConfigError

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


@dataclass(frozen=True)
class Licence:
    """A licence as a model card states it.

    Attributes
    ----------
    head
        Lines of the card's head.
    words
        A sentence.
    text
        Of the licence, where it comes as a file.
    """

    head: list[str]
    words: str
    text: str = field(default="", repr=False)

    @classmethod
    def of(cls, given: str) -> Licence:
        """Read what was given: an identifier such as ``apache-2.0``, a file with a text, or "" for none.

        Raises
        ------
        ConfigError
            When it is neither.
        """
        if not given:
            head = ["license: other", "license_name: not-stated"]
            return cls(head, "No licence is stated: ask the coordinator before you use it.")
        path = Path(given)
        if path.is_file():
            try:
                text = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"--licence {given} is no text ({type(error).__name__})") from None
            head = ["license: other", "license_name: own-text", "license_link: LICENSE"]
            return cls(head, "The licence is in the file LICENSE.", text)
        if _IDENTIFIER.fullmatch(given):
            return cls([f"license: {given.lower()}"], f"Licence: {given}.")
        raise ConfigError(
            f"--licence {given!r} must be an identifier such as apache-2.0, or a file with the text"
        )
