"""What the attacks found, as questions and answers for a reader without statistics."""

from __future__ import annotations

from dataclasses import dataclass

from fedpdiff.attack_results import AttackResults, Membership, percent
from fedpdiff.report.attack_tables import FAILED, Table, all_tables, controls
from fedpdiff.report.wording import NO_NUMBER


@dataclass(frozen=True)
class Answer:
    """One question of the table.

    Attributes
    ----------
    question
        What the attacker wants to know, and with what in hand.
    found
        How often it was right.
    guessing
        How often it would be without anything.
    allowed
        What the guarantee allows at most; a dash where there is no guarantee.
    """

    question: str
    found: str
    guessing: str
    allowed: str


@dataclass(frozen=True)
class AttackWords:
    """The section on attacks.

    Attributes
    ----------
    works
        Whether all controls were defeated; otherwise only they are shown.
    opening
        What was done, and the outcome in one sentence.
    alarm
        What lies above its cap; ``None`` when nothing does.
    answers
        Questions and answers.
    tables
        Everything measured.
    notes
        How to read it.
    """

    works: bool
    opening: str
    alarm: str | None
    answers: list[Answer]
    tables: list[Table]
    notes: list[str]


def attack_words(results: AttackResults | None) -> AttackWords | None:
    """Put the attacks of a run into words; ``None`` when there were none."""
    if results is None:
        return None
    if not results.controls_work:
        return AttackWords(False, FAILED, None, [], [controls(results)], results.notes)
    alarm = None
    if results.exceeded:
        alarm = (
            "Above the cap beyond chance: " + "; ".join(results.exceeded) + ". The release or its accounting "
            "is wrong: rely on no number of this run."
        )
    return AttackWords(True, _opening(results), alarm, _answers(results), all_tables(results), results.notes)


def _opening(results: AttackResults) -> str:
    outcome = (
        "Some of them found more than the guarantee allows."
        if results.exceeded
        else "None found more than the guarantee allows, as it must be."
    )
    return (
        "This run was attacked: its uploads, its global model and its personal models, by programs that know "
        f"everything public about it. {outcome} The same programs did find what they must find in "
        f"{len(results.controls)} controls without protection, so finding little here means something. Other "
        "images at the same noise may give away more, up to what is allowed."
    )


def _answers(results: AttackResults) -> list[Answer]:
    found = [*_matched(results), *_members(results), *_rebuilt(results), *_read(results), *_copied(results)]
    return [answer for answer in found if answer is not None]


def _matched(results: AttackResults) -> list[Answer]:
    rows = [row for row in results.reidentification if row.t0 == results.privacy["t0"]]
    row = next((row for row in rows if row.gallery.startswith("all")), None)
    if row is None:
        return []
    return [
        Answer(
            f"Whose upload is it? The attacker has {row.candidates:.0f} clean images and must say which one "
            "is behind an upload.",
            f"{percent(row.rate.value)} right",
            percent(row.chance),
            percent(row.cap),
        )
    ]


_QUESTIONS = {
    "uploads": "Was my image among the uploads? The attacker has the image and everything that was uploaded.",
    "global model": "Was my image used? The attacker has the image and the global model.",
    "personal model": "Was my image used? The attacker has the image and a client’s personal model, which "
    "nothing but its secrecy protects.",
}


def _members(results: AttackResults) -> list[Answer]:
    answers = []
    for target, question in _QUESTIONS.items():
        rows = [row for row in results.membership if row.target == target and row.works is not False]
        if rows:
            row: Membership = max(rows, key=lambda row: row.auc.value)
            cap = row.balanced_accuracy_cap
            allowed = "no limit" if not row.protected or cap is None else percent(cap)
            answers.append(Answer(question, f"{percent(row.balanced_accuracy)} right", "50.0 %", allowed))
    return answers


def _rebuilt(results: AttackResults) -> list[Answer]:
    scores = [min(r.score, r.trusted) for r in results.recovery if r.t0 == results.privacy["t0"]]
    if not scores:
        return []
    return [
        Answer(
            "What did the image look like? The attacker rebuilds images from uploads, with models of similar "
            "images, another client’s model or the global model.",
            f"{percent(max(0.0, 1 - min(scores)), 0)} of the difference to the true image removed",
            "0 %",
            NO_NUMBER,
        )
    ]


def _read(results: AttackResults) -> list[Answer]:
    own = [row for row in results.attributes if row.t0 == results.privacy["t0"]]
    answers = []
    for name in dict.fromkeys(row.attribute for row in own):
        row = max((row for row in own if row.attribute == name), key=lambda row: row.accuracy.value)
        answers.append(
            Answer(
                f"What does the image show? The attacker reads its {name} ({row.values} possible) from one "
                "upload. Hiding which image it was need not hide this.",
                f"{percent(row.accuracy.value)} right",
                percent(row.chance),
                percent(row.cap),
            )
        )
    return answers


def _copied(results: AttackResults) -> list[Answer]:
    if not results.memorisation:
        return []
    rows = [row for row in results.memorisation if row.space == "pixels"] or results.memorisation
    row = max(rows, key=lambda row: row.closer_to_train.value)
    return [
        Answer(
            "Do generated images copy training images? Share of samples that lie closer to a training image "
            f"than to an unused one; the most of any set ({row.target} of {row.client}, {row.classes} "
            "classes). Samples come from personal models, which are not protected.",
            percent(row.closer_to_train.value),
            "50.0 %",
            "no limit",
        )
    ]
