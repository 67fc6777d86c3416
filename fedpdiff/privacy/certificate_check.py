"""Whether a certificate says what follows from its settings: all of it is computed again and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.certificate import document, fact_problems
from fedpdiff.privacy.certificate_facts import ReleaseFacts
from fedpdiff.privacy.certificate_words import FORMAT

_READER = TypeAdapter(ReleaseFacts)
_FORM = FORMAT.partition("/")[0] + "/"
_LONGEST = 80  # of a value in a message; it may be a stranger's
# Where a certificate has its facts; every other fact stands at the top level under its own name.
_PLACES = {
    "ledger.noisings": "composition.noisings_per_image",
    "ledger.mu_total": "composition.mu_total",
    "ledger.duplicates_dropped": "duplicates_dropped",
    "policy.epsilon": "policy.epsilon",
    "policy.delta": "policy.delta",
    "persons.images": "persons.most_images",
    "persons.mu": "persons.mu",
    "self_test.tests": "self_test.tests",
    "self_test.false_alarm": "self_test.added_delta",
}
_TOP_LEVEL = (
    "t0", "alpha_bar", "clip", "centre_sha256", "schedule", "diffusion_steps", "image_shape", "preprocessing",
    "delta", "class_counts", "sha256", "labels_sha256", "wire", "created", "software",
)  # fmt: skip


def parse_certificate(text: str | bytes) -> dict[str, Any]:
    """Read a certificate as JSON; what it says is not checked yet.

    Raises
    ------
    PrivacyError
        When it is no JSON object, or one with a key twice or a number that is not finite.
    """
    try:
        certificate = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise PrivacyError(f"the certificate is no JSON, or damaged: {_short(str(error))}") from None
    if not isinstance(certificate, dict):
        raise PrivacyError("the certificate is no JSON object")
    return certificate


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _refuse(number: str) -> Any:
    raise ValueError(f"{number} is not a finite number")


def check_certificate(certificate: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a certificate, in words; empty when everything follows from its settings.

    Parameters
    ----------
    certificate
        As :func:`parse_certificate` reads it, from anybody.
    """
    form = certificate.get("format")
    if isinstance(form, str) and form.startswith(_FORM) and form != FORMAT:
        return [
            f"it has the format {_short(form)!r}, but this version reads {FORMAT!r}: use the version of "
            "fedpdiff that wrote it, or a newer one"
        ]
    try:
        facts = _READER.validate_json(json.dumps(_facts(certificate), allow_nan=False), strict=True)
        return fact_problems(facts) + _differences(document(facts), dict(certificate), "")
    except ValidationError as error:
        return [_in_words(problem["loc"], problem["msg"], problem["input"]) for problem in error.errors()]
    except (PrivacyError, ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        return [f"its settings cannot be computed with: {_short(str(error))}"]


def _facts(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that a certificate states, unchecked, in the form of :class:`ReleaseFacts`."""
    facts: dict[str, Any] = {name: certificate.get(name) for name in _TOP_LEVEL}
    simulation = _at(certificate, "noise.simulation")
    facts["noise"] = "secure" if simulation is False else "seeded"
    for place, key in _PLACES.items():
        group, _, name = place.partition(".")
        facts.setdefault(group, {})[name] = _at(certificate, key)
    facts["self_test"]["ok"] = _at(certificate, "self_test.noise_health") == "ok"
    if certificate.get("persons") is None:
        facts["persons"] = None
    return facts


def _at(certificate: Mapping[str, Any], place: str) -> Any:
    """Return the value at ``"key"`` or ``"group.key"``; None when there is none."""
    value: Any = certificate
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _in_words(location: tuple[int | str, ...], message: str, found: Any) -> str:
    place = ".".join(map(str, location))
    return f"{_short(_PLACES.get(place, place))} is {_short(repr(found))}: {message[:1].lower()}{message[1:]}"


def _differences(right: Any, found: Any, where: str) -> list[str]:
    if isinstance(right, dict) and isinstance(found, dict):
        prefix = f"{where}." if where else ""
        problems = [f"{prefix}{key} is missing" for key in right if key not in found]
        problems += [f"{_short(prefix + str(key))} is unknown" for key in found if key not in right]
        for key in right:
            if key in found:
                problems += _differences(right[key], found[key], prefix + key)
        return problems
    # As text, because Python takes 1, 1.0 and True for equal.
    if json.dumps(right) == json.dumps(found):
        return []
    if where == "checksum":
        return ["something was changed after it was made: the checksum does not fit"]
    if isinstance(found, str) and len(found) > _LONGEST:
        return [f"{where} is not word for word what follows from the settings"]
    return [f"{where} is {_short(repr(found))}, but {_short(repr(right))} follows from the settings"]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
