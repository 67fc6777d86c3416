"""A client's scores as the flat metrics of a Flower record, ``group/method/metric``, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, get_args

from pydantic import ValidationError

from fedpdiff.errors import MessageError
from fedpdiff.results import Group, GroupScores, Method

Scores = dict[str, dict[str, GroupScores]]  # group -> method -> numbers

PFDM_COLUMNS: Final[tuple[Method, ...]] = ("local", "pfdm", "oracle", "own")


def to_metrics(scores: Scores) -> dict[str, float]:
    """Return every number that there is."""
    return {
        f"{group}/{method}/{name}": value
        for group, methods in scores.items()
        for method, numbers in methods.items()
        for name, value in numbers.model_dump(exclude_none=True).items()
    }


def from_metrics(metrics: Mapping[str, float], columns: Sequence[Method]) -> Scores:
    """Return the scores that these metrics stand for; ``columns`` are those that a client may send.

    Raises
    ------
    MessageError
        When a name is not known or a number is out of its metric's range.
    """
    scores: Scores = {}
    most = len(get_args(Group)) * len(columns) * len(GroupScores.model_fields)
    if len(metrics) > most:
        raise MessageError(f"there are {len(metrics)} scores, but at most {most} exist")
    for group in get_args(Group):
        for method in columns:
            prefix = f"{group}/{method}/"
            numbers = {key[len(prefix) :]: value for key, value in metrics.items() if key.startswith(prefix)}
            if numbers:
                scores.setdefault(group, {})[method] = _scores(prefix, numbers)
    unknown = sorted(set(metrics) - set(to_metrics(scores)))
    if unknown:
        raise MessageError(f"the score {unknown[0][:60]!r} is not known")
    return scores


def _scores(prefix: str, numbers: dict[str, float]) -> GroupScores:
    try:
        return GroupScores.model_validate(numbers)
    except ValidationError as error:
        first = error.errors()[0]
        raise MessageError(f"the score {prefix}{str(first['loc'][0])[:40]}: {first['msg']}") from None
