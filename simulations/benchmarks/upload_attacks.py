"""Attacks on single uploads of MNIST and CIFAR-10, from t0 = 300 to 900, beside known figures and the caps.

    python simulations/benchmarks/upload_attacks.py --mnist DIR --cifar10 DIR

DIR holds a train split as ``datasets.load_dataset`` reads it (for example a folder of parquet files).
Setting: linear schedule, T = 1000, clipped to norm C = 10 around mid-grey; 1000 members, 1000 non-members,
4000 public images, disjoint; releases made by the project's own mechanism, with seeded noise so that the
table repeats (NOT PRIVATE). Each of several draws takes other images and other noise.

The reference figures are one draw of the same experiment made independently. "z" is the difference from our
mean in standard errors of one draw and that mean together: binomial for rates, for the others the larger of
the attack's own standard error and the spread between draws.

Takes about 25 minutes on one core, 5 with --no-attributes. Writes OUT/upload_attacks.json, its chart
and, per data set, pictures of originals, uploads and linear reconstructions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from upload_attacks_figure import draw_chart, draw_pictures
from upload_attacks_tables import METRICS, RATES, REFERENCE, print_attributes, print_table, theory_table

from fedpdiff.attacks.attribute import gaussian_reader, read_attribute, train_network_reader
from fedpdiff.attacks.image_quality import recovery
from fedpdiff.attacks.linear import fit_gaussian, wiener
from fedpdiff.attacks.reidentification import reidentify
from fedpdiff.attacks.statistics import area_under_curve
from fedpdiff.attacks.upload_membership import attack_upload_membership
from fedpdiff.config import RunConfig
from fedpdiff.data.images import to_labelled_images
from fedpdiff.data.source import load_source
from fedpdiff.privacy import ceilings
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.gaussian_noise import SeededNoise
from fedpdiff.privacy.mechanism import clip, decode_integers, release_integers
from fedpdiff.rng import numpy_generator, torch_generator
from fedpdiff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule("linear", 1000)
CLIP, DELTA = 10.0, 1e-5
LEVELS = (300, 400, 500, 600, 690, 800, 900)
SHAPES = {"mnist": (1, 28), "cifar10": (3, 32), "coloured mnist": (3, 28)}


@dataclass(frozen=True)
class Draw:
    """Pixels (n, C, H, W) and labels of one draw: members first, then non-members, then public images."""

    pixels: np.ndarray
    labels: np.ndarray
    members: int
    number: int

    @property
    def clipped(self) -> np.ndarray:
        """The images as they are released, float64."""
        return clip(self.pixels, 0.0, CLIP)


def main() -> int:
    """Run the benchmark; return 1 when a figure is further from the reference than luck explains."""
    options = arguments()
    result: dict[str, Any] = {
        "settings": {
            "schedule": "linear", "diffusion_steps": 1000, "clip": CLIP, "centre": "none", "delta": DELTA,
            "members": options.members, "non_members": options.members, "public": options.public,
            "draws": options.draws, "rank": options.rank, "seed": options.seed, "noise": "seeded",
        },
        "theory": {str(level): theory(level) for level in options.levels},
        "measured": {}, "reference": {}, "attributes": {},
    }  # fmt: skip
    for name in ("mnist", "cifar10"):
        where = getattr(options, name)
        if where:
            run_data_set(name, where, options, result)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "upload_attacks.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw_chart(result, options.out / "upload_attacks.png")
    print(theory_table(result["theory"]))
    far = [print_table(name, result) for name in result["measured"]]
    print_attributes(result["attributes"])
    return int(any(far))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", default="", help="MNIST, as datasets.load_dataset reads it")
    parser.add_argument("--cifar10", default="", help="CIFAR-10, likewise")
    parser.add_argument("--out", type=Path, default=Path("simulations/results/upload_attacks"))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--public", type=int, default=4000)
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--rank", type=int, default=200, help="axes of the Gaussian models")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attributes", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if not options.mnist and not options.cifar10:
        parser.error("give --mnist DIR, --cifar10 DIR or both")
    return options


def run_data_set(name: str, where: str, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Attack every draw of one data set and, of the first one, read its attributes."""
    # Gallery and public images of another size are another experiment.
    reference = REFERENCE[name] if (options.members, options.public) == (1000, 4000) else {}
    measured = []
    for draw in draws(name, where, options):
        start = time.monotonic()
        measured.append(attack(draw, options))
        print(f"{name}: draw {draw.number + 1}, {time.monotonic() - start:.0f} s", file=sys.stderr)
        if draw.number == 0:
            pictures(name, draw, options)
            if options.attributes:
                result["attributes"][name] = {"class": read(draw, draw.labels, options)}
    result["measured"][name] = {
        str(level): summary([one[level] for one in measured], reference.get(level))
        for level in options.levels
    }
    result["reference"][name] = {str(level): row for level, row in reference.items()}
    if name == "mnist" and options.attributes:
        painted = next(draws("coloured mnist", where, options))
        result["attributes"]["coloured mnist"] = {
            "class": read(painted, painted.labels % 10, options),
            "colour": read(painted, painted.labels // 10, options),
        }


def draws(name: str, where: str, options: argparse.Namespace) -> Iterator[Draw]:
    """Yield disjoint draws of the data set's train split."""
    channels, size = SHAPES[name]
    transform = "colorize" if name == "coloured mnist" else "none"
    config = RunConfig.parse(
        {"data": where, "image-size": size, "channels": channels, "data-transform": transform}
    )
    source = load_source(config).train
    count = 2 * options.members + options.public
    order = numpy_generator(options.seed, "upload attacks", name).permutation(len(source))
    if count * options.draws > len(order):
        raise SystemExit(f"{options.draws} draws of {count} images need more than the {len(order)} there are")
    for number in range(options.draws):
        images = to_labelled_images(source.select(order[number * count : (number + 1) * count]), config)
        yield Draw(images.pixels().numpy(), images.labels.numpy(), options.members, number)


def uploads_of(draw: Draw, level: int, seed: int) -> np.ndarray:
    """Return one release of the members at a level, by the mechanism of the project."""
    noise = SeededNoise(seed, "upload attacks", draw.number, level)
    share = float(SCHEDULE.alpha_bar[level])
    return decode_integers(release_integers(draw.pixels[: draw.members], 0.0, CLIP, share, noise))


def attack(draw: Draw, options: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """Return for every level and metric (value, standard error), and the caps of both re-identifications."""
    clipped, n = draw.clipped, draw.members
    members, others, public = clipped[:n], clipped[n : 2 * n], clipped[2 * n :]
    labels = draw.labels[:n]
    by_class = fit_gaussian(public, draw.labels[2 * n :], options.rank)
    population = fit_gaussian(public, rank=options.rank)
    result: dict[int, dict[str, Any]] = {}
    for level in options.levels:
        share = float(SCHEDULE.alpha_bar[level])
        uploads, mu = uploads_of(draw, level, options.seed), mu_of(share, CLIP)
        all_, same = (reidentify(uploads, members, share**0.5, mu, groups) for groups in (None, labels))
        score = recovery(wiener(by_class, uploads, labels, share), members, by_class.prior_guess(labels))
        area = area_under_curve(
            *(attack_upload_membership(population, tried, uploads, share) for tried in (members, others)),
            confidence=0.6827,
        )
        result[level] = {
            "re-identified": (all_.found.hits, n),
            "in class": (same.found.hits, n),
            "recovery": (score.score, score.standard_error),
            "membership AUC": (area.value, (area.high - area.low) / 2),
            "cap": all_.cap,
            "in-class cap": same.cap,
        }
    return result


def summary(found: list[dict[str, Any]], reference: tuple[float, ...] | None) -> dict[str, Any]:
    """Return mean, standard error of one draw, and distance from the reference, of every metric."""
    caps = ("cap", "in-class cap")
    result: dict[str, Any] = {cap: float(np.mean([one[cap] for one in found])) for cap in caps}
    for column, metric in enumerate(METRICS):
        pairs = np.array([one[metric] for one in found], float)
        if metric in RATES:
            values = pairs[:, 0] / pairs[:, 1]
            error = math.sqrt(max(values.mean(), 0.5 / pairs[0, 1]) * (1 - values.mean()) / pairs[0, 1])
        else:
            values, error = pairs[:, 0], float(pairs[:, 1].mean())
            error = max(error, float(values.std(ddof=1)) if len(values) > 1 else 0.0)
        entry = {"mean": float(values.mean()), "error_of_one_draw": error, "draws": values.tolist()}
        if reference is not None:
            rounding = 0.001 / math.sqrt(12)  # the reference has three digits
            spread = math.hypot(error * math.sqrt(1 + 1 / len(values)), rounding)
            entry["z"] = (reference[column] - float(values.mean())) / spread
        result[metric] = entry
    return result


def read(draw: Draw, values: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Return how well both readers read an attribute from the uploads of every level."""
    clipped, n = draw.clipped, draw.members
    public, known = clipped[2 * n :], values[2 * n :]
    model = fit_gaussian(public, known, options.rank)
    result = {}
    for level in options.levels:
        share = float(SCHEDULE.alpha_bar[level])
        uploads = uploads_of(draw, level, options.seed)
        readers = {
            "gaussian": gaussian_reader(model, share),
            "network": train_network_reader(
                public, known, share, torch_generator(options.seed, "upload attacks", level)
            ),
        }
        readings = {k: read_attribute(r, uploads, values[:n], mu_of(share, CLIP)) for k, r in readers.items()}
        one = readings["gaussian"]
        result[str(level)] = {"chance": one.chance, "cap": one.cap} | {
            key: [reading.accuracy, *interval(reading.right.interval())] for key, reading in readings.items()
        }
    return result


def interval(rate: Any) -> tuple[float, float]:
    """Return the ends of an interval."""
    return rate.low, rate.high


def theory(level: int) -> dict[str, float]:
    """Return what the release promises at a level."""
    mu = mu_of(float(SCHEDULE.alpha_bar[level]), CLIP)
    return {
        "mu": mu,
        "epsilon": epsilon_from_mu(mu, DELTA),
        "AUC cap": ceilings.auc(mu),
        "TPR cap at FPR 1 %": ceilings.tpr_at_fpr(mu, 0.01),
        "TPR cap at FPR 0.1 %": ceilings.tpr_at_fpr(mu, 0.001),
        **{f"re-id cap of {m}": ceilings.reidentification(mu, m) for m in (10, 100, 1000)},
    }


def pictures(name: str, draw: Draw, options: argparse.Namespace) -> None:
    """Draw some originals, uploads and linear reconstructions at several levels."""
    clipped, n = draw.clipped, draw.members
    model = fit_gaussian(clipped[2 * n :], draw.labels[2 * n :], options.rank)
    shown = np.array([int(np.flatnonzero(draw.labels[:n] == label)[0]) for label in range(0, 10, 2)])
    rows = {"guess without upload": model.prior_guess(draw.labels[shown]).reshape(draw.pixels[shown].shape)}
    for level in [one for one in (300, 500, 690) if one in options.levels]:
        share = float(SCHEDULE.alpha_bar[level])
        y = uploads_of(draw, level, options.seed)[shown]
        estimate = wiener(model, y, draw.labels[shown], share).reshape(y.shape)
        rows[f"upload, t0 = {level}"], rows[f"recovered, t0 = {level}"] = y / share**0.5, estimate
    draw_pictures(clipped[shown], rows, options.out / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
