"""The table of ``fedpdiff privacy --frontier``, for a terminal."""

from __future__ import annotations

import statistics
import textwrap
from typing import Any

from fedpdiff.privacy.statement import NEIGHBOURS, UNIT
from fedpdiff.report.wording import LARGE_EPSILON, number
from fedpdiff.results import Method

_WIDTH = 110
_HEADER = ("budget  ", "epsilon", "t0", "alpha_bar", "sqrt", "SNR", "mu", "AUC", "1 of 2", "TPR", "1 of 100")
_MEASURED = ("local-only", "PFDM")
_COLUMNS = (
    ("epsilon", "exact, for one image, at the smallest t0 that keeps the budget"),
    ("alpha_bar", "share of signal power that the noise leaves; sqrt: its root, the factor on the image"),
    (
        "SNR",
        "mean squared norm of a public image in the upload over the noise variance of one value: below about "
        "1 only averages of many uploads carry something to learn (privacy is measured by the ceilings)",
    ),
    ("mu", "distance of the worst pair of images, in standard deviations of the noise"),
    (
        "AUC ...",
        "what no attack on an upload can exceed: AUC when telling one image from one other; right guesses "
        "between two; true positives at 1 % false positives; picking the right one of 100",
    ),
)
_COLUMNS_MEASURED = (
    (
        "PFDM",
        "Frechet distance of the minority classes (lower is better) beside that of local-only, mean over "
        "clients and runs",
    ),
)


def frontier_table(found: dict[str, Any]) -> str:
    """Return the table with what it rests on, what its columns mean and what speaks against its rows.

    Parameters
    ----------
    found
        What :func:`fedpdiff.federation.frontier.choose` returned.
    """
    measured = any(row["runs"] for row in found["rows"])
    rows = [_HEADER + (_MEASURED if measured else ()), *(_cells(row, measured) for row in found["rows"])]
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows]
    legend = [*_COLUMNS, *(_COLUMNS_MEASURED if measured else ())]
    meanings = [line for name, text in legend for line in _wrapped(f"  {name:<11}", text)]
    return "\n".join([*_facts(found), "", *lines, "", *meanings, *_speaks_against(found)])


def frontier_distance(row: dict[str, Any], method: Method) -> float | None:
    """Return the mean distance over a row's runs; ``None`` where there is none."""
    known = [run["minority"][method] for run in row["runs"] if run["minority"][method] is not None]
    return statistics.fmean(known) if known else None


def _cells(row: dict[str, Any], measured: bool) -> tuple[str, ...]:
    budget = f"{row['budget']:g}"
    if "unreachable" in row:
        return f"{budget}  ", "–"
    caps = row["attack_ceilings"]
    shares = ("auc", "balanced_accuracy", "tpr_at_1_percent_fpr", "reidentify_1_of_100")
    cells = (
        budget + (" !" if row["epsilon"] > LARGE_EPSILON else "  "),
        f"{row['epsilon']:.3f}",
        str(row["t0"]),
        f"{row['alpha_bar']:.3g}",
        f"{row['signal_amplitude']:.3f}",
        f"{row['signal_to_noise']:.3g}",
        f"{row['mu']:.3f}",
        *(f"{100 * caps[name]:.1f} %" for name in shares),
    )
    if not measured:
        return cells
    return cells + tuple(number(frontier_distance(row, method)) for method in ("local", "pfdm"))


def _facts(found: dict[str, Any]) -> list[str]:
    channels, height, width = found["image_shape"]
    public = found["public_images"]
    known = " No public images: the SNR is what it is at most."
    if public:
        known = (
            f" Of {public:,} public images {100 * found['clipped']:.0f} % are clipped to it; their mean "
            f"squared norm is then {found['signal_power']:.3g}."
        )
    text = (
        f"{found['data']}, {width}x{height}, {channels} channel{'s' if channels > 1 else ''}; centre: "
        f"{found['centre']}; C = {found['clip']:.4g} ({found['clip_rule']}).{known} "
        f"delta = {found['delta']:g}; the largest client has {found['images']:,} images; "
        f"{found['schedule']} schedule of {found['diffusion_steps']} steps."
    )
    unit = f"One noisy upload of each image, made once. Unit: {UNIT}, {NEIGHBOURS}."
    return [*textwrap.wrap(unit, _WIDTH), *textwrap.wrap(text, _WIDTH)]


def _speaks_against(found: dict[str, Any]) -> list[str]:
    lines = []
    if any(row.get("epsilon", 0) > LARGE_EPSILON for row in found["rows"]):
        lines.append(
            f"Warning: rows with ! have an epsilon above {LARGE_EPSILON:g} for one image: as a worst-case "
            "guarantee it is nearly empty."
        )
    lines += [f"budget {row['budget']:g}: {note}" for row in found["rows"] for note in row["notes"]]
    spaces = {run["feature_space"] for row in found["rows"] for run in row["runs"]}
    if len(spaces) > 1:
        lines.append(
            "The runs measured distances in different feature spaces: compare local-only and PFDM within a "
            "row, not between rows."
        )
    lines += found["cautions"]
    lines += [f"Checked: {found['checked']}"] if found["checked"] else []
    wrapped = [part for line in lines for part in ("", *textwrap.wrap(line, _WIDTH))]
    return wrapped


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
