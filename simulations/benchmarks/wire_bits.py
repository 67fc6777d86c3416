"""What coding the upload at 8, 4 or 2 bits per value costs: noise, and the quality of samples.

The quickstart's release is made once per repetition (of its own seed: division, personal half and features)
and coded at every width. A global half is trained on each, from the same first weights and with the same
batches and noise, and client 0 samples its rare digits from the same sampling noise. The ratio is that of
its Frechet distance to the one that the same release gives uncoded, as float32.

The share of noise that coding adds is exact where an upload looks like N(0, 1), at low epsilon. At the
quickstart's epsilon of 60 the signal is large beside the noise, so that it is measured on the release.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fedpdiff.privacy.mechanism import decode_integers
from fedpdiff.privacy.wire import WIRE_BITS, added_noise_variance, decode, encode
from fedpdiff.report.style import COLOURS, figure, save, styled
from simulations.benchmarks.digits import Digits
from simulations.benchmarks.paired import interval, mean_ratio
from simulations.benchmarks.table import Figure

PER_CENT = 100.0
MOST_NOISE = {4: 1.2}  # per cent of the noise variance, by bits
MOST_CHANGE = {4: 3.0}  # per cent of the Frechet distance
SETTINGS: dict[str, bool | int | float | str] = {}  # that differ from the quickstart's


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures."""
    runs = [_run(seed) for seed in range(1, repetitions + 1)]
    for bits in WIRE_BITS:
        size, noise, ratios = zip(*(run[bits] for run in runs), strict=True)
        yield Figure(f"bytes at {bits} bits, against float32", size, "x", at={"bits": bits})
        yield Figure(
            f"noise variance that {bits} bits add to an upload near N(0, 1), exact",
            (PER_CENT * added_noise_variance(bits),),
            "%",
            MOST_NOISE.get(bits),
            "at most",
        )
        yield Figure(f"the same, measured on the quickstart's release (epsilon 60), {bits} bits", noise, "%")
        found = interval(ratios)
        what = f"Frechet distance of rare digits at {bits} bits, against float32"
        yield Figure(what, ratios, "x", interval=found, at={"bits": bits})
        if found:
            farthest = max(abs(end - 1) for end in found)
            yield Figure(
                f"the farther end of its 95 % interval from 1, {bits} bits",
                (PER_CENT * farthest,),
                "%",
                MOST_CHANGE.get(bits),
                "at most",
            )


def _run(seed: int) -> dict[int, tuple[float, float, float]]:
    """Return, by bits: bytes against float32, share of noise added (%), distance against the uncoded one."""
    digits = Digits(seed, **SETTINGS)
    release, personal = digits.release(), digits.personal(0)
    exact = decode_integers(release)

    def distance(uploads: np.ndarray) -> float:
        return digits.distance(0, (digits.global_half(uploads), personal), seed)

    uncoded, found = distance(exact), {}
    for bits in WIRE_BITS:
        coded = encode(release, bits)
        uploads = decode(coded, bits, release.shape)
        error = float(np.square(uploads - exact, dtype=np.float64).mean())
        noise = PER_CENT * error / (1 - digits.mechanism.alpha_bar)
        found[bits] = (coded.nbytes / exact.nbytes, noise, distance(uploads) / uncoded)
    return found


@styled
def draw(figures: Sequence[Figure], path: Path) -> None:
    """Draw every run's ratio, the mean and its interval, for each width."""
    canvas = figure(5.2, 2.6)
    axes = canvas.add_subplot()
    ratios = [one for one in figures if one.what.startswith("Frechet")]
    for place, one in enumerate(ratios):
        axes.plot([place] * len(one.values), one.values, "o", color=COLOURS["quiet"], markersize=3, alpha=0.7)
        mean = mean_ratio(one.values)
        low, high = one.interval or (mean, mean)
        error = [[mean - low], [high - mean]]
        axes.errorbar(
            [place + 0.12], [mean], yerr=error, fmt="o", color=COLOURS["pfdm"], capsize=3, markersize=5
        )
    axes.axhline(1, color=COLOURS["quiet"], linewidth=0.8)
    axes.axhspan(0.97, 1.03, color=COLOURS["pfdm"], alpha=0.08, linewidth=0)
    axes.set_xticks(range(len(ratios)), [f"{one.at['bits']} bits" for one in ratios])
    axes.set_xlim(-0.5, len(ratios) - 0.5)
    axes.set_ylabel("Frechet distance of rare digits\nagainst float32")
    canvas.tight_layout()
    save(canvas, path)
