"""Run cases and write the table: python -m simulations.faults [--out FOLDER] [CASE ...]."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from simulations.faults.cases import CASES, Case, Skipped, needed
from simulations.faults.machines import deployment
from simulations.faults.world import World, set_up

LEFT = "no-process-left"
RESULTS = Path(__file__).parents[1] / "results" / "faults"


def try_case(world: World, case: Case) -> dict[str, Any]:
    """Run one case and return its row of the table."""
    print(f"{time.strftime('%H:%M:%S')} {case.name}: {case.injected}", flush=True)
    began = time.monotonic()
    world.begin(case.name)
    try:
        problems = case.run(world)
        outcome = "as required" if not problems else "NOT as required: " + "; ".join(problems)
    except (Skipped, NotImplementedError) as reason:
        outcome = f"skipped: {reason}"
    except Exception as error:
        traceback.print_exc()
        outcome = f"NOT as required: {type(error).__name__}: {error}"
    print(f"{time.strftime('%H:%M:%S')} {case.name}: {outcome}", flush=True)
    root = str(world.machines.root)
    events = [event.replace(root, "ROOT") for event in world.events]
    return _row(case, events, outcome.replace(root, "ROOT"), round(time.monotonic() - began))


def _row(case: Case, happened: list[str], outcome: str, seconds: int) -> dict[str, Any]:
    return {
        "case": case.name,
        "injected": case.injected,
        "required": case.required,
        "happened": happened,
        "outcome": outcome,
        "seconds": seconds,
    }


def write_table(folder: Path, new: list[dict[str, Any]]) -> None:
    """Write ``faults.json`` and ``README.md``; rows of other cases that are there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "faults.json"
    known = json.loads(path.read_text("utf-8"))["cases"] if path.exists() else []
    found = {row["case"]: row for row in [*known, *new]}
    rows = [found.get(case.name, _row(case, [], "not run", 0)) for case in CASES]
    rows += [found[LEFT]] if LEFT in found else []
    path.write_text(json.dumps({"cases": rows}, indent=2) + "\n", encoding="utf-8")
    lines = [
        "# Faults in real deployments",
        "",
        "A coordinator behind nginx and three sites, with TLS and authentication, as real processes on one",
        "machine. Checked after every case: each image noised once, the pooled uploads verified and byte for",
        "byte what the sites released, no accepted shard lost or changed, every personal model there.",
        "",
        "Written by `python -m simulations.faults`, or by the same command with the names of some cases.",
        "",
        "| case | injected | required | outcome | seconds |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["case"], row["injected"], row["required"], row["outcome"], str(row["seconds"])]
        lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    lines += ["", "What happened, in order:", ""]
    for row in (row for row in rows if row["happened"]):
        lines += [f"- **{row['case']}**", *(f"  - {event}" for event in row["happened"])]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Run the cases that were named, or all; return 1 if one was not as required."""
    parser = argparse.ArgumentParser(prog="python -m simulations.faults", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(c.name for c in CASES)}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if missing := needed():
        print(f"skipped: {missing}", file=sys.stderr)
        return 0
    chosen = [case for case in CASES if case.name in arguments.cases or not arguments.cases]
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="fedpdiff-faults-") as folder,
        deployment(Path(folder) / "w") as machines,
    ):
        world = set_up(machines)
        for case in chosen:
            rows.append(try_case(world, case))
            write_table(arguments.out, rows)
        left = machines.stop()
    rows.append(
        {
            "case": LEFT,
            "injected": "the started scripts end with SIGTERM",
            "required": "every process ends",
            "happened": [],
            "outcome": f"NOT as required: {left}" if left else "as required",
            "seconds": 0,
        }
    )
    write_table(arguments.out, rows)
    return int(any(row["outcome"].startswith("NOT") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
