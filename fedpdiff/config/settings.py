"""What run and node settings share: reading flat key-value settings and naming every mistake in them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpdiff.errors import ConfigError
from fedpdiff.plain import plain_line

Value = bool | int | float | str
_LONGEST_SHOWN = 200  # characters of a wrong value in a message


def setting(default: Any, allowed: str, **constraints: Any) -> Any:
    """Declare a setting; ``allowed`` completes "must be ..." in the message about a wrong value."""
    return Field(default=default, description=allowed, **constraints)


def show(value: object) -> str:
    """Write a value as TOML does, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


class Settings(BaseModel):
    """Flat settings with kebab-case keys, strict types, and no unknown keys."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
    )

    @classmethod
    def fields_by_key(cls) -> dict[str, str]:
        """Return every key with the name of its field, in order of declaration."""
        return {name.replace("_", "-"): name for name in cls.model_fields}

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Self:
        """Read flat settings; keys that are absent take their defaults.

        Raises
        ------
        ConfigError
            With one line per problem: key, value, what is allowed.
        """
        known = {key: value for key, value in settings.items() if key in cls.fields_by_key()}
        problems = [unknown_key(key, cls) for key in settings if key not in known]
        for key in [key for key, value in known.items() if not _is_text(value)]:
            problems.append(cls._wrong(key, known.pop(key)))
        try:
            config = cls.model_validate(known)
        except ValidationError as error:
            problems += [line for details in error.errors() for line in cls._explain(details)]
        if problems:
            raise ConfigError("\n".join(problems))
        return config

    @classmethod
    def _explain(cls, details: Any) -> list[str]:
        if not details["loc"]:  # a combination: the message says it all, one line each
            return str(details["ctx"]["error"]).splitlines()
        key = str(details["loc"][0])
        if details["type"] == "missing":
            return [f"{key}: is missing; must be {cls._allowed(key)}"]
        return [cls._wrong(key, details["input"])]

    @classmethod
    def _wrong(cls, key: str, value: object) -> str:
        return f"{key} = {show(value)}: must be {cls._allowed(key)}"

    @classmethod
    def _allowed(cls, key: str) -> str:
        return str(cls.model_fields[cls.fields_by_key()[key]].description)

    def flat(self) -> dict[str, Value]:
        """Return all settings by kebab-case key, the inverse of :meth:`parse`; unset ones are left out."""
        return self.model_dump(by_alias=True, exclude_none=True)


def _is_text(value: object) -> bool:
    """Return False for text that no file or message can hold: half a character of bytes that are no UTF-8."""
    return not isinstance(value, str) or value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def unknown_key(key: str, model: type[Settings]) -> str:
    """Say that ``key`` is unknown and which known one it resembles."""
    close = difflib.get_close_matches(key.replace("_", "-"), list(model.fields_by_key()), n=1)
    return f"{plain_line(key, 100) or '(empty)'}: unknown setting" + (
        f", did you mean {close[0]}?" if close else ""
    )
