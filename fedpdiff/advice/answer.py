"""The answer of ``fedpdiff advise`` in numbers: what theory expects, what limits it, what would change it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from fedpdiff.advice.question import Question
from fedpdiff.advice.theory import (
    class_mean_error,
    directions_seen,
    distances,
    recognised,
    theorem_5_2_share,
)
from fedpdiff.privacy.cautions import budget_cautions

Verdict = Literal["yes", "a little", "hardly", "no"]
Limit = Literal["personal", "uploads", "need"]

EPSILONS = (1.0, 3.0, 10.0, 30.0, 100.0)
MINORITIES = (0, 3, 8, 20, 50, 200)
FEW = 2.0
"""Images of a class of which networks reach half of the best gain: few are learnt by heart, not followed."""
REACHED = 0.95
"""Share of the best possible without any image of a class (docs/advice.md has what was measured of both)."""
_GAINS = {"yes": 0.1, "a little": 0.05, "hardly": 0.02}  # from which the words are used
_RECOGNISED = {"yes": 0.8, "a little": 0.5, "hardly": 0.25}
_SMALL_COST = 0.02  # share of a class's own variance: so little that samples look no different
_EPSILON_RANGE = (0.01, 1000.0)


@dataclass(frozen=True)
class Outcome:
    """What theory expects of the rare class.

    Attributes
    ----------
    gain
        Share of local-only's distance that collaborating is expected to take away: ``reached`` of
        ``best_gain``. This and the next six are None where the client has no image of the class.
    reached
        What networks reach of it: n / (n + ``FEW``) with n images of the class at the client.
    best_gain
        The same with the best denoisers.
    best_endless, best_oracle
        ``best_gain`` with uploads without end, and of the oracle hand-off (real uploads, refined).
    gap_closed
        Expected share of the way to centralised; None where there is none to go.
    cost
        Squared distance of local-only to the truth, as a share of the class's own variance.
    recognised, recognised_endless
        Without an image of the class at the client: share of samples that are expected to be recognised as
        the class.
    """

    gain: float | None = None
    reached: float | None = None
    best_gain: float | None = None
    best_endless: float | None = None
    best_oracle: float | None = None
    gap_closed: float | None = None
    cost: float | None = None
    recognised: float | None = None
    recognised_endless: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether it will pay, in a word."""
        return self._word(self.gain, self.recognised)

    @property
    def limit(self) -> Limit | None:
        """What stands in the way, if anything.

        A personal network that knows its few images by heart, too few uploads for this noise, or no need.
        """
        if self.cost is not None and self.cost < _SMALL_COST:
            return "need"
        if self.verdict == "yes":
            return None
        endless = None if self.best_endless is None else (self.reached or 0) * self.best_endless
        return "personal" if self._word(endless, self.recognised_endless) == self.verdict else "uploads"

    def _word(self, gain: float | None, share: float | None) -> Verdict:
        if share is not None:
            return _first(share, _RECOGNISED)
        if self.cost is not None and self.cost < _SMALL_COST:
            return "no"
        return _first(gain or 0.0, _GAINS)


def _first(value: float, least: dict[str, float]) -> Verdict:
    return next((word for word in get_args(Verdict) if value >= least.get(word, -math.inf)), "no")


def predict(question: Question) -> Outcome:
    """Return what theory expects."""
    noise, _ = question.noise()
    spectrum, pooled = question.spectrum, question.pooled
    if question.minority == 0:
        share, endless = (
            REACHED * recognised(spectrum, noise, uploads, question.classes)
            + (1 - REACHED) / question.classes
            for uploads in (pooled, math.inf)
        )  # what is not reached is right by chance
        return Outcome(recognised=share, recognised_endless=endless)
    found = distances(spectrum, noise, question.minority, pooled)
    best, gap = found.gain(found.pfdm), found.gap_closed
    reached = question.minority / (question.minority + FEW)
    return Outcome(
        gain=reached * best,
        reached=reached,
        best_gain=best,
        best_endless=found.gain(found.endless),
        best_oracle=found.gain(found.oracle),
        gap_closed=None if gap is None else reached * gap,
        cost=found.local / float(spectrum.within.sum()),
    )


def answer(question: Question) -> dict[str, Any]:
    """Return the whole answer, as ``fedpdiff advise --json`` prints it; docs/advice.md says what is what."""
    noise, t0 = question.noise()
    spectrum, pooled, few = question.spectrum, question.pooled, question.minority
    total = spectrum.within + spectrum.between
    return {
        "question": asdict(question),
        "t0": t0,
        **_outcome(question),
        "uploads": {
            "signal_to_noise": 1 / noise.upload,
            "class_mean_error": class_mean_error(spectrum, noise.upload, pooled),
            "class_mean_error_alone": class_mean_error(spectrum, 0.0, few) if few else None,
            "directions": question.values,
            "directions_of_a_class": directions_seen(spectrum.within, noise.upload, pooled),
            "directions_of_all": directions_seen(total, noise.upload, question.images),
            "theorem_5_2": theorem_5_2_share(noise.upload / float(spectrum.within[0])),
        },
        "by_epsilon": [_changed(question, epsilon=epsilon) for epsilon in EPSILONS],
        "by_minority": [
            _changed(question, minority=n)
            for n in MINORITIES
            if max(n, 1) * question.classes <= question.images
        ],
        "by_images": [_changed(question, images=factor * question.images) for factor in (1, 10, 100)],
        "epsilon_for": {word: epsilon_for(question, word) for word in ("a little", "yes")},
        "cautions": [str(c) for c in budget_cautions(question.epsilon, question.delta, question.largest)],
    }


def epsilon_for(question: Question, wanted: Literal["a little", "yes"]) -> float | None:
    """Return the epsilon from which the answer is ``wanted``, to two digits; None above 1000."""
    low, high = _EPSILON_RANGE
    order = get_args(Verdict)

    def reached(epsilon: float) -> bool:
        return order.index(predict(replace(question, epsilon=epsilon)).verdict) <= order.index(wanted)

    if not reached(high):
        return None
    while high / low > 1.01:  # more budget is never less gain
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reached(middle) else (middle, high)
    return float(f"{high:.2g}")


def _changed(question: Question, **changes: Any) -> dict[str, Any]:
    """Return the outcome of a question that differs from the one asked."""
    return {**changes, **_outcome(replace(question, **changes))}


def _outcome(question: Question) -> dict[str, Any]:
    outcome = predict(question)
    return {"verdict": outcome.verdict, "limit": outcome.limit, **asdict(outcome)}
