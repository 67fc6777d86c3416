"""Measure, print the table, write it: python -m simulations.benchmarks [NAME ...]

All together take long, many_clients longest: name those that you want, and run them on a quiet machine.
Those of a GPU run only where they are named.
Ratios are of two things measured alternately in the same run. Benchmarks with arguments of their own
(noise_health.py, upload_attacks.py, upload_memory.py in this folder) are run by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import import_module
from pathlib import Path

from simulations.benchmarks.gpu import describe as describe_gpu
from simulations.benchmarks.table import markdown

BENCHMARKS = (
    "release_speed",
    "start_up",
    "training_speed",
    "many_small_clients",
    "rates",
    "sampling_evaluations",
    "wire_bits",
    "overhead",
    "many_clients",
)
GPU_BENCHMARKS = ("training_speed_gpu", "many_small_clients_gpu")
RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"


def main() -> int:
    """Run what was named, or all; return 0 whether goals are met or not: the table says it."""
    known = BENCHMARKS + GPU_BENCHMARKS
    parser = argparse.ArgumentParser(prog="python -m simulations.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or BENCHMARKS:
        module = import_module(f"simulations.benchmarks.{name}")
        where = f"{describe_gpu()}, {machine}" if name in GPU_BENCHMARKS else machine
        figures = []
        for figure in module.measure(arguments.repetitions):
            figures.append(figure)
            print(f"{name}: {figure.what}: {figure.median:.3g} {figure.unit}", file=sys.stderr, flush=True)
        table = markdown(figures)
        print(f"\n{table}")
        head = f"# {name}\n\n{(module.__doc__ or '').strip()}\n\n{where}. Written by `python -m "
        head += f"simulations.benchmarks {name} --repetitions {arguments.repetitions}`.\n\n"
        (arguments.out / f"{name}.md").write_text(head + table, encoding="utf-8")
        found = {"machine": where, "figures": [figure.to_json() for figure in figures]}
        (arguments.out / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        if hasattr(module, "draw"):
            module.draw(figures, arguments.out / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
