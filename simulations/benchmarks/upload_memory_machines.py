"""A coordinator, its proxy and sealed sites as real processes on this machine, and what memory they take."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from fedpdiff.simulation.launcher import to_toml

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
_START_SECONDS = 180


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machines:
    """Everything set up by the commands of the deployment guide, each process in a group of its own.

    Parameters
    ----------
    root
        A new folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.coordinator = root / "coordinator"
        self.port, self.superlink_port = free_port(), free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        own = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "RAY_"))}
        (root / "home").mkdir()
        self._environment = own | {
            "HOME": str(root / "home"),
            "PATH": f"{TOOLS}:{os.environ['PATH']}:/usr/sbin",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        if shutil.which("nginx", path=self._environment["PATH"]) is None:
            raise SystemExit("sites come through nginx: apt-get install nginx-light")

    def __enter__(self) -> Self:
        ports = ["--port", self.port, "--superlink-port", self.superlink_port]
        self.fedpdiff("coordinator", "init", self.coordinator, "--host", "localhost", *ports)
        try:
            self._start("SuperLink", self.coordinator / "start-superlink")
            self._start("proxy", self.coordinator / "start-proxy")
            self._wait_for_ports()
            self._start("SuperExec", self.coordinator / "start-serverapp")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fedpdiff(self, *arguments: object) -> None:
        """Run one of the project's commands."""
        command = [str(TOOLS / "fedpdiff"), *map(str, arguments)]
        subprocess.run(command, env=self._environment, stdout=subprocess.DEVNULL, check=True)

    def add_sealed_site(self, name: str, outbox: Path) -> None:
        """Set up, admit and start the network side of a sealed site."""
        site = self.root / name
        where = ["--coordinator", f"localhost:{self.port}", "--ca", self.coordinator / "ca.crt"]
        self.fedpdiff("site", "init", site, *where, "--data", "/", "--runtime-port", free_port())
        made = tomllib.loads((site / "site.toml").read_text())
        tables = {part: values for part, values in made.items() if isinstance(values, dict)}
        tables["node"] = {"site-name": name, "outbox": str(outbox), "inbox": str(site / "inbox")}
        text = to_toml({"format": made["format"]})
        text += "".join(f"[{part}]\n{to_toml(values)}" for part, values in tables.items())
        (site / "site.toml").write_text(text, encoding="utf-8")
        key = site / "site.key.pub"
        self.fedpdiff("coordinator", "admit", key, "--name", name, "--dir", self.coordinator)
        self._start(f"{name} SuperNode", site / "start-supernode")
        self._start(f"{name} ClientApp", site / "start-clientapp")

    def run(self, settings: Mapping[str, bool | int | float | str]) -> str:
        """Run the app with these settings and return its status.

        Raises
        ------
        SystemExit
            When a process has ended, for which the run would wait in vain.
        """
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise SystemExit(f"{name} ended with status {process.returncode}:\n{self.log(name)[-2000:]}")
        path = self.root / "run.toml"
        path.write_text(to_toml(settings), encoding="utf-8")
        run_id = self._flwr("run", str(ROOT), "fedpdiff", "--stream", "--run-config", str(path))["run-id"]
        return str(self._flwr("list", "fedpdiff", "--run-id", str(run_id))["runs"][0]["status"])

    def database_bytes(self) -> int:
        """Return the size of the SuperLink's database, its write-ahead log included."""
        return sum(path.stat().st_size for path in (self.coordinator / "state").glob("superlink.db*"))

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        return self._log(name).read_text(errors="replace")

    def stop(self) -> None:
        """End every process that was started here, with its descendants."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes.values():
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
            for process in self.processes.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=15)
            time.sleep(1)

    def _flwr(self, *arguments: str) -> dict[str, list[dict[str, str]]]:
        environment = self._environment | {"FLWR_HOME": str(self.coordinator / "flower")}
        command = [TOOLS / "flwr", *arguments, "--format", "json"]
        done = subprocess.run(command, cwd=self.root, env=environment, stdout=subprocess.PIPE, check=True)
        return dict(json.loads(done.stdout))

    def _log(self, name: str) -> Path:
        return self.root / f"{name.replace(' ', '-')}.log"

    def _start(self, name: str, script: Path) -> None:
        with self._log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(script)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_for_ports(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        for port in (self.port, self.superlink_port):
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if time.monotonic() > deadline:
                    raise SystemExit(f"nothing listens on port {port}: see the logs in {self.root}")
                time.sleep(0.3)


WATCHED = ("SuperLink", "ServerApp", "SuperExec")


class Watch(threading.Thread):
    """Reads the resident memory of the coordinator's processes, several times a second.

    They are the SuperLink, the ServerApp, and the SuperExec, which starts the ServerApp for a run.

    Parameters
    ----------
    machines
        What to watch.
    seconds
        Between two looks.

    Attributes
    ----------
    samples
        For each time: seconds since the beginning, and by name RSS and PSS in bytes. RSS counts every page
        that a process maps; PSS divides what processes share among them.
    largest_database
        Largest size of the SuperLink's database so far, bytes.
    """

    def __init__(self, machines: Machines, seconds: float = 0.3) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, dict[str, tuple[int, int]]]] = []
        self.largest_database = 0
        self._machines, self._seconds = machines, seconds
        self._done = threading.Event()
        self._began = time.monotonic()

    def run(self) -> None:
        """Watch until :meth:`finish`."""
        while not self._done.wait(self._seconds):
            superlink, superexec = (
                self._family(self._machines.processes[name].pid) for name in ("SuperLink", "SuperExec")
            )
            groups = (superlink, superexec[1:], superexec[:1])  # as in WATCHED
            found = {name: _memory(group) for name, group in zip(WATCHED, groups, strict=True)}
            self.samples.append((time.monotonic() - self._began, found))
            with suppress(FileNotFoundError):
                self.largest_database = max(self.largest_database, self._machines.database_bytes())

    def finish(self) -> None:
        """Stop watching."""
        self._done.set()
        self.join()

    @staticmethod
    def _family(pid: int) -> list[psutil.Process]:
        """Return a process and its descendants."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            return [process, *process.children(recursive=True)]
        return []


def _memory(processes: Sequence[psutil.Process]) -> tuple[int, int]:
    """Return RSS and PSS of processes together, bytes."""
    rss = pss = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory = process.memory_full_info()
            rss, pss = rss + memory.rss, pss + memory.pss
    return rss, pss
