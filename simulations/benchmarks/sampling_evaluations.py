"""How good samples are for how many network evaluations: samplers, and the split between the two halves.

The quickstart's client 0 samples its rare digits, always with the same trained halves. Shown is the Frechet
distance as a ratio to that of 1,000 evaluations, which visit every level of the chain (`ddpm`). Repetitions
are sampling seeds, which numerator and denominator share: a ratio's interval covers other sampling noise,
not other trainings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.privacy.mechanism import decode_integers
from fedpdiff.report.style import COLOURS, CYCLE, figure, save, styled
from simulations.benchmarks.digits import Digits
from simulations.benchmarks.paired import interval, mean_ratio
from simulations.benchmarks.table import Figure

SEED = 1
REFERENCE = "ddpm"
SAMPLERS = ("dpm-solver++", "ddim", "ddpm")
EQUAL = (5, 10, 20, 50)  # evaluations of each half
UNEQUAL = ((5, 15), (15, 5), (10, 30), (30, 10))  # with the default sampler
GOAL = 1.05
SETTINGS: dict[str, bool | int | float | str] = {}  # that differ from the quickstart's


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures."""
    digits = Digits(SEED, **SETTINGS)
    halves = digits.global_half(decode_integers(digits.release())), digits.personal(0)
    default = (
        digits.config.sampler,
        (
            digits.config.global_sampling_steps,
            digits.config.personal_sampling_steps,
        ),
    )
    hand_off, top = halves[0].config.hand_off, halves[0].config.diffusion_steps
    every_level = (top - hand_off, hand_off)
    reference = _distances(digits, halves, REFERENCE, every_level, repetitions)
    yield Figure(
        f"Frechet distance, {_words(REFERENCE, every_level)}: what the others are divided by",
        reference,
        "",
        at=_place(REFERENCE, every_level),
    )
    points = {default, *((sampler, (each, each)) for sampler in SAMPLERS for each in EQUAL)}
    points |= {(default[0], split) for split in UNEQUAL}
    measured = {}
    for sampler, steps in sorted(points, key=lambda point: (SAMPLERS.index(point[0]), sum(point[1]), point)):
        found = measured[sampler, steps] = _distances(digits, halves, sampler, steps, repetitions)
        ratios = tuple(one / other for one, other in zip(found, reference, strict=True))
        is_default = (sampler, steps) == default
        yield Figure(
            f"{_words(sampler, steps)}{', the default' if is_default else ''}",
            ratios,
            "x",
            GOAL if is_default else None,
            "at most",
            interval(ratios),
            _place(sampler, steps),
        )
    short = _distances(digits, halves, *default, repetitions, "bfloat16")
    ratios = tuple(one / other for one, other in zip(short, measured[default], strict=True))
    yield Figure("the default in bfloat16, against float32", ratios, "", interval=interval(ratios))


def _distances(
    digits: Digits,
    halves: tuple[Denoiser, Denoiser],
    sampler: str,
    steps: tuple[int, int],
    repetitions: int,
    precision: str = "float32",
) -> tuple[float, ...]:
    return tuple(digits.distance(0, halves, seed, sampler, steps, precision) for seed in range(repetitions))


def _words(sampler: str, steps: tuple[int, int]) -> str:
    return f"`{sampler}`, {steps[0]} + {steps[1]} = {sum(steps):,} evaluations"


def _place(sampler: str, steps: tuple[int, int]) -> dict[str, str | int]:
    return {"sampler": sampler, "global evaluations": steps[0], "personal evaluations": steps[1]}


@styled
def draw(figures: Sequence[Figure], path: Path) -> None:
    """Draw the mean ratio with its interval over the number of evaluations, a line per sampler."""
    canvas = figure(6.2, 3.2)
    axes = canvas.add_subplot()
    ratios = [one for one in figures if one.unit == "x"]
    for colour, sampler in zip(CYCLE, SAMPLERS, strict=False):
        own = [one for one in ratios if one.at["sampler"] == sampler]
        _series(axes, [one for one in own if _split(one)[0] == _split(one)[1]], sampler, color=colour)
        unequal = [one for one in own if _split(one)[0] != _split(one)[1]]
        if unequal:
            name = f"{sampler}, unequal halves"
            _series(axes, unequal, name, color=colour, marker="x", linestyle="", alpha=0.7)
        for one in unequal:
            where = (sum(_split(one)), mean_ratio(one.values))
            below = _split(one)[0] < _split(one)[1]  # so that two names at one place can both be read
            place = (4, -8 if below else 2)
            axes.annotate("{}+{}".format(*_split(one)), where, place, textcoords="offset points", size=6.5)
    for height, style in ((1.0, "-"), (GOAL, "--")):
        axes.axhline(height, color=COLOURS["quiet"], linewidth=0.8, linestyle=style)
    axes.set_xscale("log")
    totals = sorted({sum(_split(one)) for one in ratios})
    axes.set_xticks(totals, [str(total) for total in totals])
    axes.minorticks_off()
    axes.set_xlabel("network evaluations per image, both halves")
    axes.set_ylabel("Frechet distance against\n1,000 evaluations")
    axes.legend(frameon=False, fontsize=7)
    canvas.tight_layout()
    save(canvas, path)


def _split(one: Figure) -> tuple[int, int]:
    return one.at["global evaluations"], one.at["personal evaluations"]


def _series(axes: Axes, chosen: list[Figure], label: str, **look: Any) -> None:
    means = [mean_ratio(one.values) for one in chosen]
    ends = [one.interval or (mean, mean) for one, mean in zip(chosen, means, strict=True)]
    errors = [[abs(mean - both[side]) for mean, both in zip(means, ends, strict=True)] for side in (0, 1)]
    totals = [sum(_split(one)) for one in chosen]
    shape = {"marker": "o", "markersize": 4, "linewidth": 1.2, "capsize": 2} | look
    axes.errorbar(totals, means, yerr=errors, label=label, **shape)
