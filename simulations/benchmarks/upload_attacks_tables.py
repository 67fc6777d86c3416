"""Tables of the benchmark of attacks on uploads, and the reference figures they are compared with."""

from __future__ import annotations

from typing import Any

METRICS = ("re-identified", "in class", "recovery", "membership AUC")
RATES = METRICS[:2]
# One draw of the same experiment, made independently of this code; columns as METRICS.
REFERENCE = {
    "cifar10": {
        300: (0.985, 0.992, 0.454, 0.994), 400: (0.746, 0.888, 0.595, 0.848),
        500: (0.214, 0.486, 0.749, 0.612), 600: (0.045, 0.152, 0.886, 0.549),
        690: (0.006, 0.072, 0.945, 0.486), 800: (0.001, 0.021, 0.986, 0.480),
        900: (0.002, 0.015, 0.996, 0.497),
    },
    "mnist": {
        300: (0.700, 0.780, 0.779, 0.765), 400: (0.231, 0.381, 0.892, 0.566),
        500: (0.041, 0.140, 0.965, 0.526), 600: (0.013, 0.068, 0.987, 0.523),
        690: (0.008, 0.030, 0.996, 0.494), 800: (0.001, 0.015, 0.999, 0.496),
        900: (0.000, 0.006, 1.000, 0.518),
    },
}  # fmt: skip
READERS = ("gaussian", "network")


def theory_table(rows: dict[str, dict[str, float]]) -> str:
    """Return the caps as text."""
    heads = list(next(iter(rows.values())))
    lines = ["t0    " + "".join(f"{head:>21}" for head in heads)]
    lines += [f"{level:<6}" + "".join(f"{row[head]:>21.4g}" for head in heads) for level, row in rows.items()]
    return "\n".join(lines)


def print_table(name: str, result: dict[str, Any]) -> bool:
    """Print measured (standard error of one draw) / reference (z); return whether any |z| exceeds 3.5."""
    print(f"\n{name}: ours +- standard error of one draw | reference (z)")
    print("t0    " + "".join(f"{metric:>34}" for metric in METRICS) + f"{'in-class cap':>16}")
    far = False
    for level, row in result["measured"][name].items():
        cells = []
        for column, metric in enumerate(METRICS):
            entry = row[metric]
            text = f"{entry['mean']:.4f} +- {entry['error_of_one_draw']:.4f}"
            if "z" in entry:
                text += f" | {result['reference'][name][level][column]:.3f} ({entry['z']:+.1f})"
                far |= abs(entry["z"]) > 3.5
            cells.append(f"{text:>34}")
        print(f"{level:<6}" + "".join(cells) + f"{row['in-class cap']:>16.3f}")
    return far


def print_attributes(found: dict[str, Any]) -> None:
    """Print how well attributes are read from one upload."""
    for name, attributes in found.items():
        for attribute, rows in attributes.items():
            print(f"\n{name}, {attribute} read from one upload: accuracy [95 % interval]")
            for level, row in rows.items():
                cells = "".join(f"  {k}: {row[k][0]:.3f} [{row[k][1]:.3f}, {row[k][2]:.3f}]" for k in READERS)
                print(f"{level:<6}{cells}  chance {row['chance']:.3f}  cap {row['cap']:.3f}")
