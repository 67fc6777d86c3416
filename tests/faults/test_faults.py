"""One fault in every phase of a real deployment; all faults: python -m simulations.faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from simulations.faults.cases import CASES, needed  # noqa: E402 (the project's scripts are no package of it)
from simulations.faults.machines import deployment  # noqa: E402
from simulations.faults.world import set_up  # noqa: E402

TABLE = ROOT / "simulations" / "results" / "faults" / "faults.json"


@pytest.mark.slow
@pytest.mark.skipif(bool(needed()), reason=needed() or "never")
def test_one_fault_in_every_phase(tmp_path: Path) -> None:
    """Killed while noising, uploading, training (site and server), downloading and sampling, it goes on."""
    case = next(case for case in CASES if case.name == "one-in-every-phase")
    with deployment(tmp_path / "w") as machines:
        world = set_up(machines)
        world.begin(case.name)
        assert case.run(world) == [], world.events
        assert machines.stop() == []  # no orphan process


def test_the_points_do_nothing_unless_asked(tmp_path: Path) -> None:
    """A process without the harness's variable is as ever, even if it finds the file."""
    points = ROOT / "simulations" / "faults" / "points"
    own = {key: value for key, value in os.environ.items() if key != "FEDPDIFF_FAULTS"}
    code = "import sys; print(any(type(f).__name__ == 'Finder' for f in sys.meta_path))"
    for extra, expected in (({}, "False"), ({"FEDPDIFF_FAULTS": str(tmp_path)}, "True")):
        environment = own | {"PYTHONPATH": str(points)} | extra
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected


def test_the_table_holds_every_case() -> None:
    """Also those that were not run, or did not come out as required: it says so."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["cases"]
    assert [(case.name, case.injected) for case in CASES] == [(r["case"], r["injected"]) for r in rows][
        : len(CASES)
    ]
    outcomes = {"as required", "NOT as required", "skipped", "not run"}
    assert {row["outcome"].split(":")[0] for row in rows} <= outcomes
