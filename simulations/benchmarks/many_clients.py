"""What 10, 100 and 1,000 simulated clients cost: wall time, and memory of server, driver and actors.

Settings: `many_clients.toml` beside this file; 8 images a client, made from scikit-learn's digits. A
further client's cost is the difference in wall time between two numbers of clients, over the difference
in clients: what every run costs once, such as its start, cancels. Measured once.
"""

from __future__ import annotations

import itertools
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator
from PIL import Image
from sklearn.datasets import load_digits

from fedpdiff.report.style import COLOURS, CYCLE, figure, save, styled
from simulations.benchmarks.simulated_run import ROLES, SimulatedRun, simulate
from simulations.benchmarks.table import Figure

CLIENTS = (10, 100, 1000)
EACH = 8  # images of a client
TEST = 400
PUBLIC = 0.2  # of the training images, as in the settings
GOAL = 1.2
SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SERVER = "driver and ServerApp"
_MB = 1e6


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures; each number of clients runs once, whatever ``repetitions``."""
    runs: dict[int, SimulatedRun] = {}
    for clients in CLIENTS:
        with tempfile.TemporaryDirectory(prefix="fedpdiff-clients-") as folder:
            data = write_images(Path(folder) / "data", clients)
            # The checks on arrival refuse one honest upload in a million: that is not to end a long run.
            least = clients - clients // 100
            settings = SETTINGS | {"data": str(data), "clients": clients, "min-clients": least}
            run = runs[clients] = simulate(Path(folder) / "run", settings)
        yield Figure(f"{clients:,} clients, wall time", (run.seconds,), "s", at={"clients": clients})
        for role in ROLES:
            peak = (run.peaks[role] / _MB,)
            where = {"clients": clients, "role": role}
            yield Figure(f"{clients:,} clients, peak resident memory of the {role}", peak, "MB", at=where)
    yield from _growth(runs)


def _growth(runs: dict[int, SimulatedRun]) -> Iterator[Figure]:
    """Yield what a further client costs, and how that and the server's memory grow."""
    further = []
    for less, more in itertools.pairwise(runs):
        further.append((runs[more].seconds - runs[less].seconds) / (more - less))
        yield Figure(f"a further client, from {less:,} to {more:,}", (further[-1],), "s")
    if len(further) > 1 and further[0] > 0:
        ratio = (further[-1] / further[0],)
        yield Figure("the last of these against the first", ratio, "x", GOAL, "at most")
    few, many = min(runs), max(runs)
    memory = (runs[many].peaks[SERVER] / runs[few].peaks[SERVER],)
    what = f"memory of {SERVER} with {many:,} clients, against {few:,}"
    yield Figure(what, memory, "x", GOAL, "at most")


def write_images(folder: Path, clients: int) -> Path:
    """Write so many clients' images, public and test images as parquet files; return the folder.

    Every image is one of scikit-learn's digits with noise of its own on it: no two are equal.
    """
    folder.mkdir(parents=True)
    digits, generator = load_digits(), np.random.default_rng(0)
    for name, count in (("train", round(clients * EACH / (1 - PUBLIC))), ("test", TEST)):
        rows = np.arange(count) % len(digits.images)
        grey = digits.images[rows] * (255 / 16) + generator.normal(0, 16, (count, 8, 8))
        images = [Image.fromarray(image) for image in np.clip(np.rint(grey), 0, 255).astype(np.uint8)]
        features = datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=[str(digit) for digit in range(10)])
        )
        labels = digits.target[rows].tolist()
        part = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        part.to_parquet(str(folder / f"{name}.parquet"))
    return folder


@styled
def draw(figures: Sequence[Figure], path: Path) -> None:
    """Draw wall time and memory over the number of clients."""
    canvas = figure(7.4, 2.7)
    times, memory = canvas.subplots(1, 2)
    walls = {one.at["clients"]: one.median for one in figures if one.unit == "s" and one.at}
    times.plot(list(walls), list(walls.values()), "o-", color=COLOURS["pfdm"], markersize=4)
    times.set_ylabel("wall time, s")
    times.set_yscale("log")
    for colour, role in zip(CYCLE, ROLES, strict=False):
        peaks = {one.at["clients"]: one.median for one in figures if one.at.get("role") == role}
        memory.plot(list(peaks), list(peaks.values()), "o-", color=colour, markersize=4, label=role)
    memory.set_ylabel("peak resident memory, MB")
    memory.set_ylim(bottom=0)
    memory.legend(frameon=False, fontsize=7)
    for axes in (times, memory):
        axes.set_xscale("log")
        axes.set_xticks(list(walls), [f"{clients:,}" for clients in walls])
        axes.minorticks_off()
        axes.set_xlabel("clients")
    times.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    times.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    canvas.tight_layout()
    save(canvas, path)
