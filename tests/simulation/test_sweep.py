"""Sweeps: what is planned, what is repeated after a kill, and that nothing outlives them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedpdiff.errors import ConfigError, RunError
from fedpdiff.results import Results
from fedpdiff.simulation import sweep as module
from fedpdiff.simulation.presets import configure, read_presets
from fedpdiff.simulation.processes import marked
from fedpdiff.simulation.sweep import LOCK, PLAN, run_sweep
from fedpdiff.simulation.sweep_file import SIZES, Planned, find_sweep, plan, read_sweep, select

ROOT = Path(__file__).parents[2]
FILE = """
preset = "quickstart"
seeds = [1, 2]
[set]
oracle = false
[[grid]]
method = ["pfdm"]
epsilon = [10, 30.0]
centralised = false
[[grid]]
method = ["fedavg"]
[size.ci]
set.personal-steps = 3
[size.cpu]
preset = "paper"
seeds = [7]
set.oracle = true
[[size.cpu.grid]]
t0 = [400, 500]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(FILE)
    return path


def finish(run: Planned, folder: Path) -> None:
    """Write what a finished run leaves."""
    config = configure(read_presets()["quickstart"], run.overrides, folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.flat()))
    Results(
        seed=config.seed,
        release_noise="secure",
        privacy={"epsilon": 9.9, "delta": 1e-5},
        feature_space="classifier:0",
        class_names=["a", "b"],
        clients=[],
        gap_closed=[],
        gap_closed_mean=None,
        gap_spread=[],
        bytes_up=[],
        bytes_down=[],
        seconds={},
    ).write(folder)


# -- files and plans --------------------------------------------------------------------------------------


def test_a_plan_is_every_point_of_every_grid_for_every_seed(file: Path) -> None:
    runs = plan(read_sweep(file).sized("ci"), {"personal-steps": 5})
    assert [run.name for run in runs] == [
        f"{point}_seed-{seed}"
        for seed in (1, 2)
        for point in ("method-pfdm_epsilon-10", "method-pfdm_epsilon-30.0", "method-fedavg")
    ]
    own = {"method": "pfdm", "epsilon": 10, "centralised": False}
    assert runs[0].overrides == {"oracle": False, "personal-steps": 5, **own, "seed": 1}
    assert runs[2].overrides == {"oracle": False, "personal-steps": 5, "method": "fedavg", "seed": 1}
    assert runs[2].point == {"method": "fedavg"}
    assert "personal-steps" not in plan(read_sweep(file), {})[0].overrides


def test_a_size_takes_the_place_of_preset_seeds_and_grid_and_adds_settings(file: Path) -> None:
    sweep = read_sweep(file).sized("cpu")
    assert sweep.preset == "paper"
    assert [run.overrides for run in plan(sweep, {})] == [
        {"oracle": True, "t0": t0, "seed": 7} for t0 in (400, 500)
    ]
    assert [run.overrides["seed"] for run in plan(sweep, {}, [3, 4])] == [3, 3, 4, 4]
    with pytest.raises(ConfigError, match="--size gpu: this sweep has settings for ci, cpu"):
        read_sweep(file).sized("gpu")


def test_what_the_sweep_varies_cannot_be_set(file: Path) -> None:
    with pytest.raises(ConfigError, match="--set epsilon: the sweep itself varies it"):
        plan(read_sweep(file), {"epsilon": 3.0})
    with pytest.raises(ConfigError, match=r"--set seed: .*use --seeds"):
        plan(read_sweep(file), {"seed": 3})


def test_a_variant_names_what_a_grid_has_in_common(file: Path) -> None:
    """It is shown and chosen by, and no setting; a grid without one has the rest."""
    file.write_text(
        'preset = "quickstart"\nseeds = [1]\n'
        '[[grid]]\nvariant = "a b"\nepsilon = [1.0, 2.0]\noracle = false\n'
        '[[grid]]\nvariant = "c"\nepsilon = [1.0]\n[[grid]]\nepsilon = [1.0]\n'
    )
    runs = plan(read_sweep(file), {})
    assert [run.name for run in runs] == [
        "variant-a-b_epsilon-1.0_seed-1", "variant-a-b_epsilon-2.0_seed-1", "variant-c_epsilon-1.0_seed-1",
        "epsilon-1.0_seed-1",
    ]  # fmt: skip
    assert runs[0].point == {"variant": "a b", "epsilon": 1.0}
    assert runs[0].overrides == {"epsilon": 1.0, "oracle": False, "seed": 1}
    assert select(runs, [("variant", "c")]) == [runs[2]]
    file.write_text('preset = "quickstart"\nseeds = [1]\n[set]\nvariant = "d"\n')
    with pytest.raises(ConfigError, match=r"\[set\] variant: it names a grid"):
        plan(read_sweep(file), {})


def test_some_of_the_points_can_be_chosen(file: Path) -> None:
    runs = plan(read_sweep(file).sized("ci"), {}, [1])
    pfdm_10, pfdm_30, fedavg = runs
    assert select(runs, []) == runs
    assert select(runs, [("method", "fedavg")]) == [fedavg]
    assert select(runs, [("epsilon", 10.0), ("epsilon", 30.0)]) == [pfdm_10, pfdm_30]
    assert select(runs, [("method", "pfdm"), ("epsilon", 30.0)]) == [pfdm_30]
    for only, message in (
        ([("method", "fedprox")], "--only method=fedprox: in this sweep method is one of pfdm, fedavg"),
        ([("clients", 4)], "--only clients=4: the sweep varies method, epsilon"),
        ([("method", "fedavg"), ("epsilon", 30.0)], "no run of the sweep has method=fedavg and epsilon=30.0"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            select(runs, only)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [", "not a readable sweep file"),
        ("seeds = [1]", "preset"),
        ('preset = "quickstart"\nseeds = []', "seeds"),
        ('preset = "quickstart"\nseeds = [-1]', "seeds"),
        ('preset = "quickstart"\nseeds = [1]\ncolour = 3', "colour"),
        ('preset = "quickstart"\nseeds = [1]\n[grid]\nepsilon = []', "epsilon"),
        ('preset = "quickstart"\nseeds = [1]\n[size.ci]\npersonal-steps = 3', "size.ci.personal-steps"),
        ('preset = "quickstart"\nseeds = [1]\n[size.huge]', "huge"),
    ],
)
def test_wrong_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_sweep(tmp_path / "s.toml")


def test_experiments_are_found_by_name(file: Path) -> None:
    assert find_sweep("rivals").name == "rivals.toml"
    assert find_sweep(str(file)) == file
    with pytest.raises(ConfigError, match=r"rival is no sweep file, .* clients, .* rivals"):
        find_sweep("rival")


def test_a_point_that_two_grids_have_is_refused(file: Path) -> None:
    file.write_text('preset = "quickstart"\nseeds = [1]\n' + 2 * "[[grid]]\nepsilon = [1.0, 2.0]\n")
    with pytest.raises(ConfigError, match=r"a point twice: epsilon-1\.0_seed-1"):
        plan(read_sweep(file), {})


CLASSES = {"celeba": 2, "chest-xray": 2, "colorized-mnist": 20}
COMMITTED = sorted((ROOT / "simulations" / "sweeps").glob("*.toml"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [None, *SIZES])
def test_the_committed_sweeps_can_run(path: Path, size: Any, tmp_path: Path) -> None:
    """Every run of every size, with data that each size either names or asks for."""
    presets, sweep = read_presets(), read_sweep(path).sized(size)
    assert sweep.description
    given = {**presets[sweep.preset].settings, **sweep.settings}.get("data", "digits")
    (tmp_path / "images").mkdir()
    changes = {} if given else {"data": str(tmp_path / "images")}
    runs = plan(sweep, changes)
    for run in runs:
        config = configure(presets[sweep.preset], run.overrides, tmp_path)
        assert config.samples_per_class * CLASSES.get(path.stem, 10) / 2 > 64  # or there is no distance
    if not given:
        with pytest.raises(ConfigError, match="--set data=PATH"):
            configure(presets[sweep.preset], plan(sweep, {})[0].overrides, tmp_path)


def test_the_committed_sweeps_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    for path in COMMITTED:
        assert f"`{path.stem}`" in page


# -- runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[list[Planned], str], list[str]]:
    """Let each run copy a finished one into its folder, but one run fail; return the names of what ran."""

    def replace(runs: list[Planned], failing: str) -> list[str]:
        ran: list[str] = []
        for run in runs:
            finish(run, tmp_path / "finished" / run.name)

        def command(preset: str, settings: Any, folder: Path) -> list[str]:
            ran.append(folder.name)
            if folder.name == failing:
                return ["sh", "-c", "echo; echo 'fedpdiff: the run failed: the disk is full'; echo; exit 1"]
            return ["cp", "-r", f"{tmp_path / 'finished' / folder.name}/.", str(folder)]

        monkeypatch.setattr(module, "_command", command)
        return ran

    return replace


def test_settings_that_cannot_work_fail_before_the_first_run(file: Path, tmp_path: Path) -> None:
    file.write_text(FILE.replace("[10, 30.0]", "[10, -1]"))
    sweep = read_sweep(file)
    with pytest.raises(ConfigError, match=r"method-pfdm_epsilon--1_seed-1: .*\n.*epsilon = -1"):
        run_sweep(read_presets(), sweep, plan(sweep, {}), tmp_path / "out", 1, print)
    assert not (tmp_path / "out").exists()


def test_chosen_runs_leave_the_plan_of_all(file: Path, tmp_path: Path, stand_in: Any) -> None:
    sweep, out = read_sweep(file).sized("ci"), tmp_path / "out"
    runs = plan(sweep, {}, [1])
    ran = stand_in(runs, failing="")
    chosen = select(runs, [("method", "fedavg")])
    for _ in range(2):
        assert run_sweep(read_presets(), sweep, runs, out, 1, print, chosen) == []
    assert ran == [run.name for run in chosen]
    assert [run["name"] for run in json.loads((out / PLAN).read_text())["runs"]] == [run.name for run in runs]


@pytest.mark.parametrize("jobs", [1, 2])
def test_only_what_is_not_finished_is_run(file: Path, tmp_path: Path, stand_in: Any, jobs: int) -> None:
    """A run whose folder has no results is run again, also in the folder that a kill left."""
    sweep, out, said = read_sweep(file).sized("ci"), tmp_path / "out", list[str]()
    runs = plan(sweep, {})
    ran = stand_in(runs, failing=runs[3].name)
    finish(runs[0], out / runs[0].name)
    finish(runs[1], out / runs[1].name)
    (out / runs[1].name / "results.json").rename(out / runs[1].name / "results.tmp")  # as a kill leaves it
    failures = run_sweep(read_presets(), sweep, runs, out, jobs, said.append)
    assert ran == [run.name for run in runs[1:]]
    assert failures == [f"{runs[3].name}: the run failed: the disk is full"]
    assert any("FAILED" in line for line in said)
    ran.clear()
    run_sweep(read_presets(), sweep, runs, out, jobs, said.append)
    assert ran == [runs[3].name]
    with pytest.raises(ConfigError, match="other settings \\(personal-steps\\)"):
        run_sweep(read_presets(), sweep, plan(read_sweep(file), {}), out, jobs, said.append)
    (out / runs[0].name / "results.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged; delete it to run it again"):
        run_sweep(read_presets(), sweep, runs, out, jobs, said.append)


def test_what_decides_nothing_may_have_changed(file: Path, tmp_path: Path, stand_in: Any) -> None:
    """How many run at once, and settings of speed alone that an older version did not have."""
    sweep, out = read_sweep(file).sized("ci"), tmp_path / "out"
    runs = plan(sweep, {})
    ran = stand_in(runs, failing="")
    finish(runs[0], out / runs[0].name)
    settings = out / runs[0].name / "config.json"
    before = json.loads(settings.read_text()) | {"gpu-clients": "3"}
    settings.write_text(json.dumps({key: value for key, value in before.items() if key != "compile"}))
    run_sweep(read_presets(), sweep, runs, out, 1, print)
    assert ran == [run.name for run in runs[1:]]


def test_a_run_that_ends_well_without_results_has_failed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_command", lambda *_: ["true"])
    sweep = read_sweep(file)
    runs = plan(sweep, {})[:1]
    assert run_sweep(read_presets(), sweep, runs, tmp_path, 1, print) == [f"{runs[0].name}: no output"]


# -- signals, kills and what they leave ---------------------------------------------------------------------

# Like simulate, each run has a family of its own, with a daemon that has left its parent.
SWEEP = """
import sys
from pathlib import Path
from fedpdiff.simulation import sweep as module
from fedpdiff.simulation.presets import read_presets
from fedpdiff.simulation.sweep_file import plan, read_sweep
module._command = lambda preset, settings, folder: [sys.executable, "-c", RUN, str(folder)]
RUN = '''
import os, subprocess, sys, time
from pathlib import Path
from fedpdiff.simulation.processes import ProcessFamily, exit_on_signals
folder = Path(sys.argv[1])
with exit_on_signals(), ProcessFamily(os.environ, folder, subprocess.DEVNULL) as family:
    family.start([sys.executable, "-c", "import os, time; os.fork() or time.sleep(600)"])
    time.sleep(600)
'''
sweep = read_sweep(Path(sys.argv[1]))
sys.exit(bool(module.run_sweep(read_presets(), sweep, plan(sweep, {}), Path(sys.argv[2]), 2, print)))
"""


class Sweeps:
    """Starts sweeps whose runs never end, and ends what they leave."""

    def __init__(self, file: Path, out: Path) -> None:
        self.file, self.out = file, out
        self.marks: set[str] = set()
        self.started: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-c", SWEEP, str(self.file), str(self.out)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.started.append(process)
        return process

    def family(self, of: subprocess.Popen[str]) -> list[psutil.Process]:
        """Wait until both runs have started their daemons; return every process below the sweep."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and of.poll() is None:
            mark = (self.out / LOCK).read_text() if (self.out / LOCK).exists() else ""
            if mark and mark not in self.marks and len(found := marked(mark)) >= 4:  # two runs, two daemons
                self.marks.add(mark)
                return found
            time.sleep(0.1)
        raise AssertionError("the sweep did not start its runs")

    def clean(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()
        mark = (self.out / LOCK).read_text() if (self.out / LOCK).exists() else ""
        for left in [p for m in self.marks | {mark} if m for p in marked(m)]:
            left.kill()


@pytest.fixture
def sweeps(file: Path, tmp_path: Path) -> Iterator[Sweeps]:
    started = Sweeps(file, tmp_path / "out")
    try:
        yield started
    finally:
        started.clean()


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_run_and_what_it_started(number: signal.Signals, sweeps: Sweeps) -> None:
    sweep = sweeps.start()
    family = sweeps.family(sweep)
    sweep.send_signal(number)
    said, _ = sweep.communicate(timeout=180)
    assert sweep.returncode == 128 + number
    assert number.name in said
    assert running(family) == []


@pytest.mark.slow
def test_one_sweep_at_a_time_and_the_next_ends_what_a_killed_one_left(sweeps: Sweeps) -> None:
    first = sweeps.start()
    left = sweeps.family(first)
    second = sweeps.start()
    said, _ = second.communicate(timeout=180)
    assert second.returncode == 1 and "another fedpdiff sweep is at work" in said
    assert running(left) == left
    first.kill()
    first.wait()
    assert running(left) == left  # nobody told them
    third = sweeps.start()
    own = sweeps.family(third)
    assert running(left) == []
    assert not {p.pid for p in own} & {p.pid for p in left}
    assert f"ending {len(left)} processes that a killed sweep left here" in (third.stdout.readline())  # type: ignore[union-attr]


def test_a_lock_file_of_something_else_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "end_marked", lambda mark: pytest.fail("ended processes"))
    monkeypatch.setattr(module, "marked", lambda mark: [psutil.Process()])
    for text in ("", "/", "something else"):
        (tmp_path / LOCK).write_text(text)
        with module._locked(tmp_path, print):
            pass


REAL = """
preset = "quickstart"
[set]
personal-steps = 2
global-steps = 2
samples-per-class = 4
oracle = false
centralised = false
"""


@pytest.mark.slow
def test_a_killed_sweep_goes_on_without_repeating_finished_runs(tmp_path: Path) -> None:
    """Real runs: killed with all its processes in the middle of the second, then alone, then let be."""
    file, out = tmp_path / "real.toml", tmp_path / "out"
    file.write_text("seeds = [1, 2]\n" + REAL)
    first, second = out / "seed-1", out / "seed-2"
    command = [sys.executable, "-m", "fedpdiff", "sweep", str(file), "--out", str(out)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_for(done: Callable[[], bool], sweep: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 600
        while not done():
            assert sweep.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    def members() -> list[psutil.Process]:
        return marked((out / LOCK).read_text())

    sweep = start()
    try:
        wait_for(lambda: (second / "config.json").exists(), sweep)  # its server app is at work
        sweep.kill()
        while found := members():
            for process in found:
                process.kill()
            psutil.wait_procs(found, timeout=10)
        sweep.communicate()
        assert (first / "results.json").exists() and not (second / "results.json").exists()
        before = {path: path.stat().st_mtime_ns for path in (first / "results.json", first / "simulate.log")}

        attempt = (second / "config.json").stat().st_mtime_ns
        sweep = start()
        wait_for(lambda: (second / "config.json").stat().st_mtime_ns != attempt, sweep)
        sweep.kill()
        sweep.communicate()
        assert members()  # the run that it was at goes on by itself

        sweep = start()
        said, _ = sweep.communicate(timeout=900)
        assert sweep.returncode == 0, said
        assert "of them finished before" in said and "seed-1: done" not in said
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert Results.read(second).seed == 2
        assert json.loads((out / PLAN).read_text())["runs"][1]["name"] == "seed-2"
        assert "seeds 1, 2" in (out / "sweep.md").read_text()
        assert members() == []
    finally:
        sweep.kill()
        sweep.wait()
        for process in members():
            process.kill()


def test_the_lock_of_an_ended_sweep_is_free(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_command", lambda *_: ["true"])
    sweep = read_sweep(file)
    for _ in range(2):
        run_sweep(read_presets(), sweep, plan(sweep, {})[:1], tmp_path, 1, print)
    with module._locked(tmp_path, print), pytest.raises(RunError, match="another fedpdiff sweep"):
        run_sweep(read_presets(), sweep, plan(sweep, {})[:1], tmp_path, 1, print)
