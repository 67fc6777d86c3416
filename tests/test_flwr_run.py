"""Real Flower runs with Ray, trainings of two steps: ``fedpdiff simulate`` and plain ``flwr run .``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from fedpdiff.results import Results
from fedpdiff.simulation.launcher import to_toml

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent
MANAGED_PORT = 39091  # of the SuperLink that `flwr run` starts by itself
SECONDS = 900
SHORT = {
    "personal-steps": 2,
    "global-steps": 2,
    "batch-size": 8,
    "warmup-steps": 0,
    "global-sampling-steps": 2,
    "personal-sampling-steps": 2,
    "samples-per-class": 14,  # 70 images of five classes: just enough for a Frechet distance
    "device": "cpu",
}

pytestmark = pytest.mark.slow


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a fresh shell of a user who has run nothing yet."""
    home.mkdir(parents=True)
    own = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "RAY_", "OMP_"))}
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    return own | quiet | {"HOME": str(home), "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"} | more


def simulate(preset: str, out: Path, settings: Mapping[str, Any]) -> Results:
    """Run ``fedpdiff simulate`` to its end and return its results."""
    changes = [f"--set={key}={value}" for key, value in settings.items()]
    done = subprocess.run(
        [sys.executable, "-m", "fedpdiff", "simulate", preset, "--out", str(out), *changes],
        cwd=ROOT,
        env=environment(out.with_name(f"{out.name}-home")),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    log = out / "flower.log"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log.read_text()[-6000:]}"
    assert (out / "results.md").read_text().strip() in done.stdout
    return Results.read(out)


class PlainFlower:
    """``flwr run .`` as the README says it, with nothing prepared: Flower starts a SuperLink and keeps it."""

    def __init__(self, folder: Path) -> None:
        self._mark = uuid.uuid4().hex
        self._environment = environment(
            folder / "home",
            FLWR_HOME=str(folder / "home" / ".flwr"),
            FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
            TEST_MARK=self._mark,
        )

    def run(self, settings: Mapping[str, Any], federation: str = "") -> tuple[Results, str]:
        """Return the results and the final status of a run."""
        changes = Path(f"{settings['run-dir']}.toml")
        changes.write_text(to_toml(settings), encoding="utf-8")
        command = ["run", ".", "--stream", "--format", "json", "--run-config", str(changes)]
        command += ["--federation-config", federation] if federation else []
        run_id = json.loads(self._flwr(*command))["run-id"]
        runs = json.loads(self._flwr("list", "--run-id", str(run_id), "--format", "json"))["runs"]
        return Results.read(Path(settings["run-dir"])), runs[0]["status"]

    def _flwr(self, *arguments: str) -> str:
        done = subprocess.run(
            [TOOLS / "flwr", *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def stop(self) -> None:
        """End the SuperLink and what it started, each by its process id."""
        for end in ("terminate", "kill"):
            members = [process for process in psutil.process_iter() if self._is_ours(process)]
            for process in members:
                getattr(process, end)()
            if not psutil.wait_procs(members, timeout=20)[1]:
                return

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("TEST_MARK") == self._mark and process.pid != os.getpid()
        except (psutil.Error, OSError):
            return False


@pytest.fixture
def plain_flower(tmp_path: Path) -> Iterator[PlainFlower]:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", MANAGED_PORT)) == 0:
            pytest.skip(
                f"another SuperLink answers on port {MANAGED_PORT}; plain `flwr run` would use that one"
            )
    flower = PlainFlower(tmp_path / "plain")
    try:
        yield flower
    finally:
        flower.stop()


def coloured_squares(folder: Path) -> Path:
    """Make an RGB image folder of three classes, PNGs that are not square."""
    rng = np.random.default_rng(1)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 80, (14, 10, 3), dtype=np.uint8)
            pixels[3:9, 2:8, channel] += np.uint8(170)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def check_run_folder(folder: Path, clients: int) -> None:
    for name in ("results.json", "results.md", "report.html", "config.json", "environment.json"):
        assert (folder / name).stat().st_size > 0, name
    assert len(list((folder / "figures").glob("*.png"))) >= clients
    for number in range(clients):
        names = {path.stem for path in (folder / f"client-{number}" / "samples").glob("*.npz")}
        assert {"real", "local", "global", "pfdm"} <= names


def numbers(results: Results) -> dict[str, Any]:
    return results.model_dump(exclude={"seconds"})


def test_two_ways_to_run_give_the_same_results(plain_flower: PlainFlower, tmp_path: Path) -> None:
    """The quickstart, launched both ways with seeded noise: every number of the results is the same.

    Then, on the SuperLink that is still there, a user's own partitioner on an RGB image folder.
    """
    settings = SHORT | {"release-noise": "seeded"}
    launched = simulate("quickstart", tmp_path / "launched", settings)
    plain, status = plain_flower.run(settings | {"run-dir": str(tmp_path / "typed")})
    assert status == "finished:completed"
    assert numbers(launched) == numbers(plain)
    assert launched.refused == []
    for client in launched.clients:
        assert client.frechet("minority", "pfdm") is not None
        assert set(client.groups["minority"]) == {"local", "pfdm", "oracle", "centralised", "real", "own"}
    for name in ("launched", "typed"):
        check_run_folder(tmp_path / name, clients=2)

    own, status = plain_flower.run(
        SHORT
        | {
            "run-dir": str(tmp_path / "own"),
            "data": str(coloured_squares(tmp_path / "squares")),
            "channels": 3,
            "fit": "pad",
            "partitioner": "by_ink:ByInk",
            "partitioner-settings": "mixing = 0.2",
            "partitioner-path": str(ROOT / "simulations" / "partitioners"),
            "clients": 3,
            "min-clients": 3,
        },
        federation="num-supernodes=3 client-resources-num-cpus=1",
    )
    assert status == "finished:completed"
    assert own.participants == ["client-0", "client-1", "client-2"]
    assert sorted(own.class_names) == ["blue", "green", "red"]
    check_run_folder(tmp_path / "own", clients=3)


def test_ten_clients_of_a_dirichlet_partition(tmp_path: Path) -> None:
    """Some clients lack classes altogether; none of them breaks the run."""
    settings = SHORT | {
        "clients": 10,
        "min-clients": 10,
        "partitioner": "dirichlet",
        "partitioner-settings": "alpha = 0.2",
        "max-images": 1000,
        "samples-per-class": 4,
    }
    results = simulate("quickstart", tmp_path / "ten", settings)
    assert results.refused == []
    assert results.participants == [f"client-{number}" for number in range(10)]
    assert any(client.classes["absent"] for client in results.clients)
    assert all(sum(map(len, client.classes.values())) == 10 for client in results.clients)
    check_run_folder(tmp_path / "ten", clients=10)
