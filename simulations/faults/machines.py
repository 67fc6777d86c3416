"""A coordinator, its proxy and its sites as real processes on one machine, set up by the commands."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from sklearn.datasets import load_digits

from fedpdiff.simulation.launcher import to_toml

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
POINTS = Path(__file__).parent / "points"
PROGRAMS = ("python", "fedpdiff", "flwr", "flower-superlink", "flower-supernode", "flower-superexec")
PATIENCE = 240.0  # seconds for one thing to happen, on a machine that may be busy
SETTINGS: dict[str, Any] = {
    "personal-steps": 40,
    "global-steps": 40,
    "batch-size": 8,
    "warmup-steps": 0,
    "global-sampling-steps": 2,
    "personal-sampling-steps": 2,
    "samples-per-class": 2,
    "device": "cpu",
    "epsilon": 8.0,
    "clients": 3,
    "min-clients": 3,
    "wait-seconds": 240,
    "reply-seconds": 900,
}


def nginx() -> str | None:
    """Return the path of nginx, or None."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """Wait until a condition holds.

    Raises
    ------
    TimeoutError
        Naming what did not happen.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: did not happen in {seconds:g} seconds")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Machines:
    """All machines of one deployment.

    Parameters
    ----------
    root
        An empty folder.

    Attributes
    ----------
    run
        The run folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run"
        self.coordinator = root / "coordinator"
        self.port, self._superlink_port = _free_port(), _free_port()
        self._running: dict[Path, subprocess.Popen[bytes]] = {}
        own = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "RAY_"))}
        (root / "home").mkdir(parents=True)
        self._environment = own | {
            "HOME": str(root / "home"),
            "PATH": f"{TOOLS}:{os.environ['PATH']}:/usr/sbin",
            "FEDPDIFF_BIN": str(self._wrap_programs()),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }

    def _wrap_programs(self) -> Path:
        """Make namesakes of the programs that let ``points/sitecustomize.py`` in."""
        folder = self.root / "bin"
        folder.mkdir()
        for name in PROGRAMS:
            text = f'#!/bin/sh\nPYTHONPATH="{POINTS}" exec "{TOOLS}/{name}" "$@"\n'
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o755)
        for name in ("flwr-clientapp", "flwr-serverapp"):
            (folder / name).symlink_to(TOOLS / name)
        return folder

    # -- setting up ---------------------------------------------------------------------------------------

    def fedpdiff(self, *arguments: object) -> str:
        """Run a command of the project and return what it prints."""
        command = [str(TOOLS / "fedpdiff"), *map(str, arguments)]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}\n{done.stderr}")
        return done.stdout

    def start_coordinator(self) -> None:
        """Set up and start SuperLink, proxy and what runs the ServerApp."""
        ports = ["--port", self.port, "--superlink-port", self._superlink_port]
        self.fedpdiff("coordinator", "init", self.coordinator, "--host", "localhost", *ports)
        for name in ("start-superlink", "start-proxy"):
            self.start(self.coordinator / name)
        self.wait_for_superlink()
        wait_for(lambda: _answers(self.port), "the proxy listens")
        self.start(self.coordinator / "start-serverapp")

    def wait_for_superlink(self) -> None:
        """Wait until the SuperLink listens."""
        wait_for(lambda: _answers(self._superlink_port), "the SuperLink listens")

    def add_site(self, number: int, state: Path | None = None) -> Site:
        """Set up and admit a site with images of its own; it is not started."""
        site = Site(self, self.root / f"hospital-{number}")
        where = ["--coordinator", f"localhost:{self.port}", "--ca", self.coordinator / "ca.crt"]
        images = _write_digits(self.root / f"images-{number}", slice(100 * number, 100 * (number + 1)))
        self.fedpdiff("site", "init", site.root, *where, "--data", images, "--runtime-port", _free_port())
        if state:
            settings = site.root / "site.toml"
            settings.write_text(
                settings.read_text("utf-8").replace(str(site.root / "state"), str(state)), encoding="utf-8"
            )
            site.state = state
        self.fedpdiff(
            "coordinator", "admit", site.root / "site.key.pub", "--name", site.name, "--dir", self.coordinator
        )
        return site

    # -- processes ----------------------------------------------------------------------------------------

    def points(self, name: str) -> Path:
        """Return the folder of a machine's points, see ``points/sitecustomize.py``."""
        folder = self.root / "points" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(self, script: Path, *before: str) -> subprocess.Popen[bytes]:
        """Start a script in a session of its own; ``before`` comes before it on the command line."""
        environment = self._environment | {"FEDPDIFF_FAULTS": str(self.points(script.parent.name))}
        with self.log(script).open("ab") as log:
            process = subprocess.Popen(
                [*before, str(script)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running[script] = process
        return process

    def kill(self, script: Path) -> None:
        """End a script's own process with SIGKILL, but not what it has started."""
        process = self._running.pop(script)
        process.kill()
        process.wait(timeout=30)

    def kill_all(self, script: Path) -> None:
        """End a script's process and all that it has started with SIGKILL."""
        process = self._running.pop(script)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)

    def tend(self) -> list[str]:
        """Start again what has ended by itself, as a service manager does; return its names."""
        ended = [script for script, process in self._running.items() if process.poll() is not None]
        for script in ended:
            self.start(script)
        return [f"{script.parent.name}/{script.name}" for script in ended]

    def forget(self, script: Path) -> None:
        """Do not tend a script any longer."""
        self._running.pop(script)

    def log(self, script: Path) -> Path:
        """Return the log of a script."""
        return self.root / f"{script.parent.name}-{script.name}.log"

    def processes(self) -> list[psutil.Process]:
        """Return every living process that belongs to this deployment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mark = process.environ().get("FEDPDIFF_FAULTS", "")
                if mark.startswith(f"{self.root}/") and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def stop(self) -> list[str]:
        """End the started scripts as a service manager does; return what is left 30 seconds later."""
        for script in sorted(self._running, key=lambda script: script.name == "start-superlink"):
            with contextlib.suppress(ProcessLookupError):
                self._running[script].send_signal(signal.SIGTERM)
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: not self.processes(), "all processes end", 30)
        left = self.processes()
        names = [" ".join(process.cmdline()[1:3]) for process in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return names

    # -- runs ---------------------------------------------------------------------------------------------

    def flwr(self, *arguments: str) -> dict[str, Any]:
        """Call ``flwr`` on the coordinator's machine and return its JSON."""
        environment = self._environment | {"FLWR_HOME": str(self.coordinator / "flower")}
        done = subprocess.run(
            [str(TOOLS / "flwr"), *arguments, "--format", "json"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"flwr {' '.join(arguments)}: {done.stdout}\n{done.stderr}")
        return dict(json.loads(done.stdout))

    def begin_run(self, **changes: Any) -> str:
        """Start a run in the run folder and return its id."""
        changes = {key.replace("_", "-"): value for key, value in changes.items()}
        settings = self.root / "run.toml"
        settings.write_text(to_toml({"run-dir": str(self.run)} | SETTINGS | changes), encoding="utf-8")
        return str(self.flwr("run", ".", "fedpdiff", "--run-config", str(settings))["run-id"])

    def status(self, run_id: str) -> str:
        """Return a run's status as Flower says it."""
        return str(self.flwr("list", "fedpdiff", "--run-id", run_id)["runs"][0]["status"])

    def wait_for_end(self, run_id: str, seconds: float = 900) -> str:
        """Wait for the end of a run and return its status."""
        deadline = time.monotonic() + seconds
        while not (status := self.status(run_id)).startswith("finished"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {run_id} is {status} after {seconds:g} seconds")
            time.sleep(3)
        return status


class Site:
    """One site's machine.

    Parameters
    ----------
    machines
        The deployment.
    root
        The site's folder.
    """

    def __init__(self, machines: Machines, root: Path) -> None:
        self.machines = machines
        self.root = root
        self.name = root.name
        self.state = root / "state"
        self.supernode, self.clientapp = root / "start-supernode", root / "start-clientapp"

    def start(self, *before: str) -> None:
        """Start what talks to the network and what runs the ClientApp."""
        self.start_supernode(*before)
        self.machines.start(self.clientapp, *before)

    def start_supernode(self, *before: str) -> None:
        """Start the SuperNode; again while it is turned away, as a service manager would."""
        deadline = time.monotonic() + PATIENCE
        seen = len(_read(self.machines.log(self.supernode)))
        process = self.machines.start(self.supernode, *before)
        while "SuperNode ID" not in _read(self.machines.log(self.supernode))[seen:]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the SuperNode of {self.name} does not connect")
            if process.poll() is not None:
                time.sleep(5)
                process = self.machines.start(self.supernode, *before)
            time.sleep(0.2)

    def kill(self) -> None:
        """End everything on this machine at once, as a power cut does."""
        for script in (self.supernode, self.clientapp):
            self.machines.kill(script)
        for process in self.apps():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def apps(self) -> list[psutil.Process]:
        """Return this site's running ClientApps."""
        mark = str(self.machines.points(self.name))
        return [
            process
            for process in self.machines.processes()
            if process.environ().get("FEDPDIFF_FAULTS") == mark and "clientapp" in str(process.cmdline())
        ]


@contextlib.contextmanager
def deployment(root: Path) -> Iterator[Machines]:
    """Yield a running coordinator; end every process in the end."""
    machines = Machines(root)
    try:
        machines.start_coordinator()
        yield machines
    finally:
        machines.stop()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _write_digits(folder: Path, rows: slice) -> str:
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[rows], digits.target[rows], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        pixels = np.round(image * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")
    return str(folder)
