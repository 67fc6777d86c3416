"""What the numbers mean, in sentences; nothing, as long as a control withstands the attack on it."""

from __future__ import annotations

from fedpdiff.attack_results import AttackResults, Membership, Recovery, Reidentification, percent
from fedpdiff.evidence.copies import significant
from fedpdiff.evidence.epsilon import ATTACK, AUDIT, GAUSSIAN
from fedpdiff.evidence.models import GLOBAL, PERSONAL
from fedpdiff.evidence.uploads import UPLOADS

_TARGETS = {UPLOADS: "The uploads", GLOBAL: "The global model", PERSONAL: "The personal models"}


def exceeded(results: AttackResults) -> list[str]:
    """Return what lies above its theoretical cap beyond chance: a mistake in the release or its accounting.

    Intervals are of 95 %, so an excess is reported only where the whole interval lies above the cap by as
    much again as its half-width: about one false alarm in ten thousand for each number.
    """
    found = []
    for row in results.membership:
        if row.auc_cap is not None and _above(row.auc.value, row.auc.low, row.auc_cap):
            found.append(
                f"{row.attack} on the {row.target}: AUC {row.auc.value:.3f}, the cap is {row.auc_cap:.3f}"
            )
    for again in results.reidentification:
        if _above(again.rate.value, again.rate.low, again.cap):
            found.append(
                f"re-identification at t0 = {again.t0} among {again.gallery}: {percent(again.rate.value)}, "
                f"the cap is {percent(again.cap)}"
            )
    for read in results.attributes:
        if _above(read.accuracy.value, read.accuracy.low, read.cap):
            found.append(
                f"{read.attribute} read at t0 = {read.t0}: {percent(read.accuracy.value)}, "
                f"the cap is {percent(read.cap)}"
            )
    for measured in results.epsilon:
        if measured.low is not None and measured.low > measured.theory:
            found.append(
                f"epsilon of one image by {measured.source}: at least {measured.low:.3f}, stated is "
                f"{measured.theory:.3f}"
            )
    return found


def _above(value: float, low: float, cap: float) -> bool:
    return value - 2 * (value - low) > cap


def verdict(results: AttackResults) -> list[str] | None:
    """Return the conclusions; ``None`` when a control failed."""
    if not results.controls_work:
        return None
    lines = [line for target in _TARGETS if (line := _membership_line(results, target))]
    lines += [_reidentification_line(results), *_recovery_lines(results)]
    lines += [*_attribute_lines(results), *_memorisation_lines(results), *_epsilon_lines(results)]
    if results.exceeded:
        lines.insert(
            0, "ABOVE THE CAP, so release or accounting is wrong: " + "; ".join(results.exceeded) + "."
        )
    else:
        lines.insert(0, "No attack exceeded what the guarantee allows.")
    return lines


def strongest_membership(results: AttackResults, target: str) -> Membership | None:
    """Return the working attack with the largest AUC on a target."""
    rows = [row for row in results.membership if row.target == target and row.works is not False]
    return max(rows, key=lambda row: row.auc.value) if rows else None


def _membership_line(results: AttackResults, target: str) -> str | None:
    row = strongest_membership(results, target)
    if row is None:
        return None
    who = f" (of {row.client})" if row.client else ""
    told = f"AUC {row.auc.value:.3f} [{row.auc.low:.3f}, {row.auc.high:.3f}]"
    line = f"{_TARGETS[target]}{who}: the strongest membership attack, {row.attack}, reaches {told}"
    if row.auc_cap is not None:
        line += f"; guessing is 0.5, the cap {row.auc_cap:.3f}"
    else:
        line += "; guessing is 0.5. Nothing but its secrecy protects it"
    if row.auc.low <= 0.5 <= row.auc.high:
        line += ". That is no better than guessing"
    return line + "."


def _own(results: AttackResults) -> int:
    return int(results.privacy["t0"])


def _reidentification_line(results: AttackResults) -> str:
    rows = [row for row in results.reidentification if row.t0 == _own(results)]
    parts = [f"{percent(row.rate.value)} among {row.gallery} ({_bounds(row)})" for row in rows]
    return f"Whose upload is it? Rightly matched: {'; '.join(parts)}."


def _bounds(row: Reidentification) -> str:
    return f"guessing {percent(row.chance)}, cap {percent(row.cap)}"


def strongest_recovery(results: AttackResults, t0: int) -> Recovery | None:
    """Return the attack at a level that came nearest to the originals."""
    rows = [row for row in results.recovery if row.t0 == t0]
    return min(rows, key=lambda row: min(row.score, row.trusted)) if rows else None


def _recovery_lines(results: AttackResults) -> list[str]:
    row = strongest_recovery(results, _own(results))
    if row is None:
        return []
    score = min(row.score, row.trusted)
    return [
        f"Rebuilding images: the strongest attack ({row.attack}, {row.attacker}) leaves {percent(score, 0)} "
        "of the squared error of a guess without the upload (0 %: perfect, 100 %: nothing gained)."
    ]


def _attribute_lines(results: AttackResults) -> list[str]:
    lines = []
    own = [row for row in results.attributes if row.t0 == _own(results)]
    for name in dict.fromkeys(row.attribute for row in own):
        row = max((row for row in own if row.attribute == name), key=lambda row: row.accuracy.value)
        lines.append(
            f"The {name} is read from a single upload in {percent(row.accuracy.value, 0)} of cases (guessing "
            f"{percent(row.chance, 0)}): hiding which image it was does not hide what it shows."
            if row.accuracy.low > row.chance
            else f"The {name} cannot be read from a single upload better than by guessing "
            f"({percent(row.chance, 0)})."
        )
    return lines


def _memorisation_lines(results: AttackResults) -> list[str]:
    if not results.memorisation:
        return []
    found = [row for row in results.memorisation if significant(row, len(results.memorisation))]
    if not found:
        return ["Generated images: no sign that they copy training images."]
    sets: dict[str, list[str]] = {}
    for row in found:
        kinds = sets.setdefault(f"{row.target} of {row.client}", [])
        if row.classes not in kinds:
            kinds.append(row.classes)
    names = ", ".join(f"{who} ({' and '.join(kinds)} classes)" for who, kinds in sets.items())
    return [
        f"Generated images lie closer to training images than held-out ones do: {names}. They are made "
        "with a personal model, which nothing but its secrecy protects."
    ]


def _epsilon_lines(results: AttackResults) -> list[str]:
    """Return the audit's interval, and what the attack on real uploads proves where that is anything."""
    lines = []
    for row in results.epsilon:
        if row.assumption != GAUSSIAN or not row.low:
            continue
        if row.source == AUDIT:
            ends = f"at least {row.low:.2f}" if row.high is None else f"{row.low:.2f} to {row.high:.2f}"
            lines.append(
                f"Epsilon of one image, measured on the pair that is easiest to tell apart: {ends}; stated: "
                f"{row.theory:.2f}."
            )
        elif row.source == ATTACK:
            lines.append(
                f"The membership attack on real uploads proves an epsilon of one image of {row.low:.2f} at "
                "least."
            )
    return lines
