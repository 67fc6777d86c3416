"""The answer of ``fedpdiff advise`` in words, with the numbers under them: one screen."""

from __future__ import annotations

import textwrap
from typing import Any

_WIDTH = 100
_PAYS = {
    "yes": "Yes, collaborating will pay.",
    "a little": "It will pay a little.",
    "hardly": "Hardly: what it gives will be near the spread of a repetition.",
    "no": "No, collaborating will not pay.",
}
_LIMITS = {
    "personal": (
        "The personal network is the limit: it follows little of what it is handed, however good that is."
    ),
    "uploads": (
        "There are too few uploads for so much noise: more images of all clients together would help, or a "
        "larger epsilon."
    ),
    "need": "There is little need: the own images tell nearly as well where the class lies.",
}


def advice_text(found: dict[str, Any]) -> str:
    """Return the text of an answer (:func:`fedpdiff.advice.answer.answer`), ending without a newline."""
    limit = _LIMITS.get(found["limit"] or "", "")
    lines = [
        *_wrap(f"{_PAYS[found['verdict']]} {_expected(found)}"),
        *_wrap(f"{limit} {_enough(found)}".strip()),
        "",
        *_wrap(_asked(found)),
        "",
        *_uploads(found),
        "",
        *_table("epsilon", found["by_epsilon"], found["question"]),
        *_table("images of the class", found["by_minority"], found["question"]),
        *_table("images of all", found["by_images"], found["question"]),
        "",
        *_wrap(_basis(found)),
    ]
    for caution in found["cautions"]:
        lines += ["", *_wrap(caution)]
    return "\n".join(lines)


def _expected(found: dict[str, Any]) -> str:
    if found["recognised"] is not None:
        return (
            "Of the samples of a class that this client has no image of, about "
            f"{_share(found['recognised'])} will be recognised as that class "
            f"({_share(1 / found['question']['classes'])} by guessing)."
        )
    text = (
        f"Expect the distance of rare classes to real images to fall by {_about(found['gain'])} from "
        f"what the client reaches alone; by {_about(found['best_gain'])} with the best possible models"
    )
    if found["gap_closed"] is None:
        return text + "."
    return text + f". Gap to centralised training closed: {_about(found['gap_closed'])}."


def _enough(found: dict[str, Any]) -> str:
    if found["limit"] == "need" or found["verdict"] == "yes":
        return ""
    little, yes = found["epsilon_for"]["a little"], found["epsilon_for"]["yes"]
    if little is None:
        return "No epsilon up to 1,000 would make it pay with these images."
    if found["verdict"] == "a little":
        return f"It would pay clearly from an epsilon of {yes:g}." if yes else ""
    clearly = f", clearly from {yes:g}" if yes else ""
    return f"With these images it would pay a little from an epsilon of {little:g}{clearly}."


def _asked(found: dict[str, Any]) -> str:
    asked = found["question"]
    height, width, channels = asked["shape"]
    text = (
        f"Asked: epsilon = {asked['epsilon']:g} at delta = {asked['delta']:g} for one image; "
        f"{asked['images']:,} images of {asked['clients']} clients in {asked['classes']} classes; "
        f"{asked['minority']} of a rare class at one client; {height}x{width}, "
        f"{channels} channel{'s' if channels > 1 else ''}."
    )
    if found["t0"] is None:
        return f"{text} The default settings have no noise level for that: a run would be refused."
    return f"{text} That is t0 = {found['t0']} of 1000 steps."


def _uploads(found: dict[str, Any]) -> list[str]:
    uploads = found["uploads"]
    alone = uploads["class_mean_error_alone"]
    mean = f"squared error {_number(uploads['class_mean_error'])} of what class means differ by"
    if alone is not None:
        mean += f"; from the own images {_number(alone)}"
    seen = (
        f"of {uploads['directions']:,} directions, the uploads of a class show "
        f"{uploads['directions_of_a_class']}, those of all classes {uploads['directions_of_all']}"
    )
    rows = (
        (
            "one upload",
            f"signal-to-noise {_number(uploads['signal_to_noise'])} (norm^2 over the noise of a value)",
        ),
        ("a class mean", mean),
        ("shapes", seen),
        ("Theorem 5.2", f"(s^2+1)/(2s^2+1)^2 = {_number(uploads['theorem_5_2'])} in the strongest direction"),
    )
    return ["What uploads tell:", *(f"  {name:<14}{text}" for name, text in rows)]


def _table(title: str, rows: list[dict[str, Any]], asked: dict[str, Any]) -> list[str]:
    key = next(iter(rows[0]))
    heads = [f"{row[key]:,g}" if key == "epsilon" else f"{row[key]:,}" for row in rows]
    heads = [f"{head}*" if row[key] == asked[key] else head for head, row in zip(heads, rows, strict=True)]
    cells = [
        f"{_share(row['recognised'])} ok" if row["recognised"] is not None else _share(row["gain"])
        for row in rows
    ]
    widths = [max(len(head), len(cell), 7) + 2 for head, cell in zip(heads, cells, strict=True)]
    first = f"  {title:<21}" + "".join(h.rjust(w) for h, w in zip(heads, widths, strict=True))
    return [
        first,
        "  " + "expected gain".ljust(21) + "".join(c.rjust(w) for c, w in zip(cells, widths, strict=True)),
    ]


def _basis(found: dict[str, Any]) -> str:
    text = (
        "* as asked. From theory and the statistics of handwritten digits (docs/advice.md), before anyone "
        "shares anything: the order of magnitude, not the digits, and for photographs less."
    )
    if any(row["recognised"] is not None for row in (*found["by_minority"], found)):
        text += ' "ok": share of samples recognised as a class without own images.'
    return text


def _about(value: float) -> str:
    return "less than 1 %" if value < 0.01 else f"about {_share(value)}"


def _share(value: float) -> str:
    return "< 1 %" if 0 < value < 0.01 else f"{100 * max(value, 0.0):.0f} %"


def _wrap(text: str) -> list[str]:
    lines = textwrap.wrap(text.replace(" %", "\N{NO-BREAK SPACE}%"), _WIDTH)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
