"""A coordinator, its proxy and two sites as real processes, set up by commands: one run, four refusals."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fedpdiff.results import Results
from fedpdiff.simulation.launcher import to_toml

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SHORT = {
    "personal-steps": 2,
    "global-steps": 2,
    "batch-size": 8,
    "warmup-steps": 0,
    "global-sampling-steps": 2,
    "personal-sampling-steps": 2,
    "samples-per-class": 2,
    "device": "cpu",
    "epsilon": 8.0,  # the sites' policies allow 10
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="sites come through nginx: apt-get install nginx-light"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machines:
    """Every process in a session of its own, with a home folder of its own, ended by its process group."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.coordinator = root / "coordinator"
        self.port, self.superlink_port = free_port(), free_port()
        self._started: list[subprocess.Popen[bytes]] = []
        own = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "RAY_"))}
        (root / "home").mkdir()
        self.environment = own | {
            "HOME": str(root / "home"),
            "PATH": f"{TOOLS}:{os.environ['PATH']}:/usr/sbin",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }

    def fedpdiff(self, *arguments: object, status: int = 0) -> str:
        command = [str(TOOLS / "fedpdiff"), *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, script: Path) -> subprocess.Popen[bytes]:
        with self.log(script).open("ab") as log:
            process = subprocess.Popen(
                [str(script)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, script: Path) -> Path:
        return self.root / f"{script.parent.name}-{script.name}.log"

    def init_site(self, name: str, data: str = "/") -> Path:
        where = ["--coordinator", f"localhost:{self.port}", "--ca", self.coordinator / "ca.crt"]
        self.fedpdiff("site", "init", self.root / name, *where, "--data", data, "--runtime-port", free_port())
        return self.root / name

    def flwr(self, *arguments: str) -> dict[str, object]:
        done = subprocess.run(
            [TOOLS / "flwr", *arguments, "--format", "json"],
            cwd=ROOT,
            env=self.environment | {"FLWR_HOME": str(self.coordinator / "flower")},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return dict(json.loads(done.stdout))

    def ask(self, path: str, port: int = 0) -> int:
        context = ssl.create_default_context(cafile=str(self.coordinator / "ca.crt"))
        connection = http.client.HTTPSConnection("localhost", port or self.port, timeout=10, context=context)
        try:
            connection.request("POST", path, body=b"")
            return connection.getresponse().status
        finally:
            connection.close()

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._started:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
            for process in self._started:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=15)
            time.sleep(1)


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.3)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def write_digits(folder: Path, rows: slice) -> str:
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[rows], digits.target[rows], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        pixels = np.round(image * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")
    return str(folder)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    machines = Machines(tmp_path)
    ports = ["--port", machines.port, "--superlink-port", machines.superlink_port]
    machines.fedpdiff("coordinator", "init", machines.coordinator, "--host", "localhost", *ports)
    try:
        for name in ("start-superlink", "start-proxy"):
            machines.start(machines.coordinator / name)
        wait_for(lambda: answers(machines.port) and answers(machines.superlink_port))
        machines.start(machines.coordinator / "start-serverapp")
        yield machines
    finally:
        machines.stop()


def check_doors(machines: Machines) -> None:
    """The SuperLink has these calls; through the proxy, however they are spelt, it does not."""
    for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/openapi.json"):
        assert machines.ask(path) == 404
        assert machines.ask(path, machines.superlink_port) != 404
    for path in ("/v1/fleet/../control/list-runs", "/v1/fleet/%2e%2e/control/list-runs", "//v1/control/x"):
        assert machines.ask(path) in (400, 404)
    assert machines.ask("/v1/fleet/activate-node") not in (200, 404)  # reached, and nobody is let in unsigned
    plain = http.client.HTTPConnection("localhost", machines.port, timeout=10)
    plain.request("POST", "/v1/fleet/activate-node", body=b"")
    assert plain.getresponse().status == 400  # nginx: plain HTTP on a TLS port
    plain.close()


def test_from_init_to_report_and_refused_where_due(machines: Machines) -> None:
    check_doors(machines)
    sites = []
    for number in range(2):
        data = write_digits(machines.root / f"images {number}", slice(300 * number, 300 * (number + 1)))
        sites.append(machines.init_site(f"hospital-{number}", data))
        key = sites[-1] / "site.key.pub"
        machines.fedpdiff(
            "coordinator", "admit", key, "--name", sites[-1].name, "--dir", machines.coordinator
        )
        machines.start(sites[-1] / "start-supernode")
        machines.start(sites[-1] / "start-clientapp")
    assert "Nothing to mend" in machines.fedpdiff("doctor", sites[0])

    stranger = machines.start(machines.init_site("stranger") / "start-supernode")
    assert stranger.wait(timeout=90) != 0

    settings = machines.root / "run.toml"
    run = machines.root / "run"
    settings.write_text(to_toml(SHORT | {"run-dir": str(run)}), encoding="utf-8")
    run_id = machines.flwr("run", ".", "fedpdiff", "--stream", "--run-config", str(settings))["run-id"]
    runs = machines.flwr("list", "fedpdiff", "--run-id", str(run_id))["runs"]
    log = machines.log(machines.coordinator / "start-serverapp").read_text()
    assert runs[0]["status"] == "finished:completed", log[-4000:]  # type: ignore[index]
    results = Results.read(run)
    assert sorted(results.participants) == ["hospital-0", "hospital-1"]
    assert results.refused == []
    assert (run / "report.html").exists()

    site = sites[1]
    machines.fedpdiff("coordinator", "revoke", site.name, "--dir", machines.coordinator)
    port = free_port()
    text = (site / "site.toml").read_text()
    old = next(line for line in text.splitlines() if line.startswith("runtime-port"))
    (site / "site.toml").write_text(text.replace(old, f"runtime-port = {port}"))
    again = machines.start(site / "start-supernode")
    assert again.wait(timeout=90) != 0
