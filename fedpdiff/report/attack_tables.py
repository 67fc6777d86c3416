"""The tables of ``attacks.json`` as plain Markdown, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedpdiff.attack_results import (
    AttackResults,
    Epsilon,
    Interval,
    LowFalsePositives,
    Membership,
    MemorisationRow,
    Reidentification,
    percent,
)
from fedpdiff.report.table import markdown
from fedpdiff.report.wording import NO_NUMBER

NOT_MEANINGFUL = "not meaningful"
RECOVERY_DEFINITION = (
    "Recovery score: squared error of the estimate / squared error of the best guess without the upload "
    "(class means of public images). 0: perfect; 1: nothing gained; above 1: worse than the guess. "
    "'trusted': the attacker learnt on its own images how far to trust the estimate; PSNR and SSIM are of "
    "that. 'unclipped': against the images before clipping, each scaled to come nearest."
)
FAILED = (
    "A control failed: an attack missed what it must find, so nothing can be concluded from the others. "
    "No verdict."
)


@dataclass(frozen=True)
class Table:
    """A table with what its columns mean.

    Attributes
    ----------
    title, note
        Heading, and a sentence on how to read it.
    rows
        Cells; the first row is the header.
    """

    title: str
    note: str
    rows: list[list[str]]


def attack_tables(results: AttackResults) -> str:
    """Return all tables and the verdict as text; only the controls when one of them failed."""
    tables = [controls(results)] if not results.controls_work else all_tables(results)
    parts = [f"{table.title}\n\n" + "\n".join(markdown(table.rows)) + f"\n{table.note}" for table in tables]
    if results.verdict is None:
        parts.append(FAILED)
    else:
        parts.append("Verdict\n\n" + "\n".join(f"- {line}" for line in results.verdict))
    parts.append("\n".join(f"Note: {note}" for note in results.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def all_tables(results: AttackResults) -> list[Table]:
    """Return every table that has rows, in the order of the report."""
    made = [
        controls(results),
        membership(results),
        levels(results),
        reidentification(results),
        recovery(results),
        attributes(results),
        memorised(results),
        epsilons(results),
    ]
    return [table for table in made if len(table.rows) > 1]


def controls(results: AttackResults) -> Table:
    """Return what every working attack must defeat, and whether it did."""
    rows = [["control", "what was attacked", "found", "needed", "works"]]
    rows += [
        [c.name, c.what, c.measured, c.needed, "yes" if c.passed else "NO: FAILED"] for c in results.controls
    ]
    return Table(
        "Controls",
        "Targets without protection: an attack that misses these proves nothing elsewhere.",
        rows,
    )


def membership(results: AttackResults) -> Table:
    """Return all membership attacks."""
    rates = [f"TPR at {100 * entry.fpr:g} % FPR" for entry in _first_low(results.membership)]
    rows = [["target", "attack", "AUC [95 %]", "cap", "balanced accuracy", *rates]]
    for row in results.membership:
        target = f"{row.target} of {row.client}" if row.client else row.target
        if not row.protected:
            target += " (not protected)"
        attack = f"{row.attack}, {row.setting}" if row.setting else row.attack
        if row.works is False:
            attack += " (its control failed)"
        accuracy = _with_cap(f"{row.balanced_accuracy:.3f}", row.balanced_accuracy_cap)
        cap = NO_NUMBER if row.auc_cap is None else f"{row.auc_cap:.3f}"
        rows.append(
            [target, attack, _interval(row.auc), cap, accuracy, *(_low(entry) for entry in row.at_low_fpr)]
        )
    return Table(
        "Was this image in the training set?",
        "AUC 0.5 is guessing. Level and power were chosen on one half of the images and judged on the other. "
        "The cap is what the guarantee allows any attack; personal models have none. In brackets: the cap.",
        rows,
    )


def levels(results: AttackResults) -> Table:
    """Return what the strongest attacks reach at every noise level."""
    rows = [
        [
            "t0",
            "epsilon, one image",
            "uploads",
            "matched among all",
            "guessing",
            "cap",
            "recovery score",
            "read",
        ]
    ]
    for match in _largest_galleries(results):
        scores = [min(r.score, r.trusted) for r in results.recovery if r.t0 == match.t0]
        rows.append(
            [
                f"{match.t0}{' (this run)' if match.t0 == results.privacy['t0'] else ''}",
                f"{match.epsilon:g}",
                match.uploads,
                percent(match.rate.value),
                percent(match.chance),
                percent(match.cap),
                f"{min(scores):.2f}" if scores else NO_NUMBER,
                _read_at(results, match.t0),
            ]
        )
    return Table(
        "What other noise levels would give away",
        "The same images, clip norm and centre at other t0: the strongest of the attacks mounted there.",
        rows,
    )


def reidentification(results: AttackResults) -> Table:
    """Return re-identification at the run's own level."""
    rows = [["candidates", "uploads", "matched [95 %]", "guessing", "cap"]]
    rows += [
        [r.gallery, r.uploads, _interval(r.rate, percent), percent(r.chance), percent(r.cap)]
        for r in results.reidentification
        if r.t0 == results.privacy["t0"]
    ]
    return Table(
        f"Whose upload is it? (t0 = {results.privacy['t0']})",
        "The attacker holds the candidates' clean images, one of which is behind each upload.",
        rows,
    )


def recovery(results: AttackResults) -> Table:
    """Return reconstruction at the run's own level."""
    rows = [["attacker holds", "attack", "score", "trusted", "unclipped", "PSNR", "SSIM", "matched after"]]
    rows += [
        [
            r.attacker,
            r.attack,
            f"{r.score:.3f} ± {r.standard_error:.3f}",
            f"{r.trusted:.3f}",
            f"{r.unclipped:.3f}",
            f"{r.psnr:.1f} dB",
            f"{r.ssim:.2f}",
            f"{percent(r.reidentified.value)} (guessing {percent(r.chance)})",
        ]
        for r in results.recovery
        if r.t0 == results.privacy["t0"]
    ]
    return Table(f"Rebuilding images (t0 = {results.privacy['t0']})", RECOVERY_DEFINITION, rows)


def attributes(results: AttackResults) -> Table:
    """Return attribute inference at the run's own level."""
    rows = [["attribute", "values", "reader", "read rightly [95 %]", "guessing", "cap"]]
    rows += [
        [
            r.attribute,
            str(r.values),
            r.reader,
            _interval(r.accuracy, percent),
            percent(r.chance),
            percent(r.cap),
        ]
        for r in results.attributes
        if r.t0 == results.privacy["t0"]
    ]
    return Table(
        f"What does an upload show? (t0 = {results.privacy['t0']})",
        "Read from one upload alone, without its disclosed label: what a release says about meaning.",
        rows,
    )


def memorised(results: AttackResults) -> Table:
    """Return memorisation."""
    rows = [
        [
            "images",
            "classes",
            "distance in",
            "closer to train [95 %]",
            "p (exchange)",
            "p (rank)",
            "Carlini",
            "NN1/NN2 <= 1/3",
        ]
    ]
    rows += [_memorisation_cells(row) for row in results.memorisation]
    return Table(
        "Do generated images copy training images?",
        "Closer to train: 50 % where nothing is copied. The two ratios are followed by what they say about "
        "honest, held-out images. Features are of a classifier of public images. Samples come from personal "
        "models, which are not protected.",
        rows,
    )


def epsilons(results: AttackResults) -> Table:
    """Return epsilon as measured."""
    rows = [["measured by", "assumption", "epsilon, one image", "stated"]]
    rows += [[e.source, e.assumption, _ends(e), f"{e.theory:.3f}"] for e in results.epsilon]
    return Table(
        "Epsilon of one image, measured and stated",
        "99.9 % confidence. The audit attacks the pair of images that is easiest to tell apart; attacking "
        "real uploads proves far less. Without assumptions, few images cannot prove a large "
        "epsilon.",
        rows,
    )


def _largest_galleries(results: AttackResults) -> list[Reidentification]:
    """Return the rows with all candidates, one for each level."""
    return [row for row in results.reidentification if row.gallery.startswith("all")]


def _read_at(results: AttackResults, t0: int) -> str:
    """Return how often each attribute is read at a level, by its best reader."""
    best: dict[str, float] = {}
    for row in results.attributes:
        if row.t0 == t0:
            best[row.attribute] = max(best.get(row.attribute, 0.0), row.accuracy.value)
    return ", ".join(f"{name} {percent(value, 0)}" for name, value in best.items()) or NO_NUMBER


def _memorisation_cells(row: MemorisationRow) -> list[str]:
    return [
        f"{row.target} of {row.client}" if row.client else row.target,
        row.classes,
        row.space,
        _interval(row.closer_to_train, percent),
        f"{row.closer_p_value:.3g}",
        f"{row.rank_p_value:.3g}",
        f"{percent(row.carlini)} / {percent(row.carlini_held_out)}",
        f"{percent(row.nearest_ratio)} / {percent(row.nearest_ratio_held_out)}",
    ]


def _first_low(rows: Sequence[Membership]) -> list[LowFalsePositives]:
    return rows[0].at_low_fpr if rows else []


def _interval(found: Interval, write: Callable[[float], str] = "{:.3f}".format) -> str:
    return f"{write(found.value)} [{write(found.low)}, {write(found.high)}]"


def _with_cap(text: str, cap: float | None) -> str:
    return text if cap is None else f"{text} ({cap:.3f})"


def _low(entry: LowFalsePositives) -> str:
    if entry.tpr is None:
        return NOT_MEANINGFUL
    return _with_cap(_interval(entry.tpr), entry.cap)


def _ends(found: Epsilon) -> str:
    if found.low is None:
        return "nothing concluded"
    return f"at least {found.low:.3f}" if found.high is None else f"{found.low:.3f} to {found.high:.3f}"
