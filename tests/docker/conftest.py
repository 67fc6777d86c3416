"""The compose files as data, and their services as sandboxes on this machine: no container engine is needed.

A sandbox has what a container has by its compose file and Dockerfile: exactly the mounts, a root file system
that is read-only, tmpfs folders, the environment, the user, no capabilities, and another one's network. It
lacks the base image (the system's own /usr takes its place) and limits of memory, CPU and processes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
_VARIABLE = re.compile(r"\$\{(\w+)(?::(-|\?)([^}]*))?\}")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def instructions(name: str) -> list[str]:
    """Return the arguments of each instruction of a kind in the Dockerfile."""
    return [" ".join(line.split()) for line in re.findall(rf"^{name} (.*)$", DOCKERFILE, re.M)]


def read_compose(name: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """Read a compose file with its variables filled in, as compose does."""

    def value(found: re.Match[str]) -> str:
        key, kind, rest = found.groups()
        if key in variables:
            return variables[key]
        assert kind == "-", f"{key} is required, or has no default"
        return str(rest)

    return dict(yaml.safe_load(_VARIABLE.sub(value, (DOCKER / name).read_text(encoding="utf-8"))))


def image_environment() -> dict[str, str]:
    """Return what the Dockerfile sets."""
    pairs = (pair.split("=", 1) for line in instructions("ENV") for pair in line.split())
    return {key: value.replace("$PATH", _SYSTEM_PATH) for key, value in pairs}


def copy_context(folder: Path) -> None:
    """Copy what the Dockerfile copies, of what .dockerignore lets through."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    for line in instructions("COPY"):
        *sources, target = line.split()
        for source in sources:
            paths = [path for pattern in allowed for path in ROOT.glob(pattern)]
            paths = [path for path in paths if path.relative_to(ROOT).is_relative_to(source)]
            assert paths, f"COPY {source}: .dockerignore lets nothing of it through"
            for path in paths:
                within = path.relative_to(ROOT / source) if path != ROOT / source else Path()
                place = folder / target / (path.name if target == "./" else within)
                place.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    shutil.copytree(path, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(path, place)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the image's /app, built from the Dockerfile's COPY and installation steps."""
    folder = tmp_path_factory.mktemp("image") / "app"
    copy_context(folder)
    install = [line for line in instructions("RUN") if line.endswith("docker/install")]
    assert len(install) == 1
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "VIRTUAL_"))}
    environment |= {"TORCH": "cuda", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"UV_PYTHON": f"{sys.base_prefix}/bin/python3"}
    for offline in ({"UV_OFFLINE": "1"}, {}):
        done = subprocess.run(
            ["docker/install"], cwd=folder, env=environment | offline, capture_output=True, text=True
        )
        if done.returncode == 0:
            return folder
        shutil.rmtree(folder / ".venv", ignore_errors=True)
    pytest.fail(f"docker/install: {done.stdout}\n{done.stderr}")


class Sandboxes:
    """The services of one compose file.

    Parameters
    ----------
    compose
        The compose file, read.
    image
        The image's /app.
    logs
        Folder for the services' output.
    """

    def __init__(self, compose: Mapping[str, Any], image: Path, logs: Path) -> None:
        self.services = compose["services"]
        self.commands: list[str] = []  # what was run by hand, each with its service
        self.network = 0  # process that holds it
        self._image = image
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, name: str) -> dict[str, str]:
        own = {key: str(value) for key, value in self.services[name].get("environment", {}).items()}
        limits = {"OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        return image_environment() | limits | own

    def command(self, name: str, command: list[str]) -> list[str]:
        """Return a service's sandbox as a command line."""
        service = self.services[name]
        user, group = service["user"].split(":")
        enter = []
        if service.get("network_mode") == "service:network":
            enter = ["nsenter", f"--net=/proc/{self.network}/ns/net", "--"]
        else:
            service = {"extra": ["--unshare-net"], **service}
        caps = [word for cap in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{cap}")]
        drop = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--inh-caps=-all"]
        variables = [word for pair in self.environment(name).items() for word in ("--setenv", *pair)]
        return [
            *enter,
            *["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--clearenv", *caps],
            *service.get("extra", []),
            *self._mounts(service),
            *variables,
            *["--chdir", "/", "--", *drop, "--bounding-set=-all", "--", *command],
        ]

    def _mounts(self, service: Mapping[str, Any]) -> list[str]:
        words = ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev"]
        for name in ("bin", "sbin", "lib", "lib64", "lib32"):
            path = Path("/", name)
            if path.is_symlink():
                words += ["--symlink", os.readlink(path), str(path)]
            elif path.exists():
                words += ["--ro-bind", str(path), str(path)]
        for target in ["/dev/shm", *service.get("tmpfs", [])]:
            words += ["--perms", "1777", "--tmpfs", target]
        mounts = [
            ("--ro-bind", sys.base_prefix, sys.base_prefix),
            ("--ro-bind", str(self._image), str(self._image)),  # programs know where they were installed
            ("--ro-bind", str(self._image), "/app"),
        ]
        for mount in service.get("volumes", []):
            kind = "--ro-bind" if mount.get("read_only") else "--bind"
            mounts.append((kind, mount["source"], mount["target"]))
        for kind, source, target in mounts:
            # Or bwrap makes the folders above as private as they are where the mount comes from.
            for parent in list(reversed(Path(target).parents))[1:]:
                words += ["--dir", str(parent)]
            words += [kind, source, target]
        return [*words, *(["--remount-ro", "/"] if service["read_only"] else [])]

    def start(self, name: str) -> None:
        """Start a service as ``docker compose up`` does."""
        service = self.services[name]
        read, write = os.pipe()
        command = self.command(name, [*service["entrypoint"], *service.get("command", [])])
        where = command.index("bwrap") + 1
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*command[:where], "--info-fd", str(write), *command[where:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[write],
                start_new_session=True,
            )
        os.close(write)
        with os.fdopen(read) as info:
            said = info.read()
        assert said, self.log(name)
        if name == "network":
            self.network = int(json.loads(said)["child-pid"])

    def run(self, name: str, *command: str, status: int | None = 0) -> str:
        """Run a command as ``docker compose run`` does."""
        self.commands.append(" ".join([name, *command]))
        words = self.command(name, [*self.services[name]["entrypoint"], *command])
        return self._call(words, status)

    def execute(self, name: str, *command: str, status: int | None = 0) -> str:
        """Run a command in a container like a service's, without the service's own program."""
        return self._call(self.command(name, list(command)), status)

    def _call(self, words: list[str], status: int | None) -> str:
        done = subprocess.run(words, capture_output=True, text=True, timeout=1200, stdin=subprocess.DEVNULL)
        assert status in (None, done.returncode), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def healthy(self, name: str) -> bool:
        """Run the service's health check once."""
        test = self.services[name]["healthcheck"]["test"]
        assert test[0] == "CMD"
        if self._running[name].poll() is not None:
            return False
        return subprocess.run(self.command(name, test[1:]), capture_output=True).returncode == 0

    def wait(self, name: str, seconds: float = 300) -> None:
        """Wait until a service is healthy."""
        deadline = time.monotonic() + seconds
        while not self.healthy(name):
            assert self._running[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(1)

    def log(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """End every sandbox; what runs in one ends with it."""
        for process in reversed(self._running.values()):
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
                    break


@pytest.fixture
def sandboxes(image: Path, tmp_path: Path) -> Iterator[Callable[..., Sandboxes]]:
    """Return ``sandboxes(file, **variables)``; all are ended after the test."""
    possible = ["bwrap", "--unshare-net", "--unshare-pid", "--ro-bind", "/", "/", "true"]
    if subprocess.run(possible, capture_output=True).returncode:
        pytest.skip("this machine does not allow bwrap its namespaces")
    made: list[Sandboxes] = []

    def make(name: str, **variables: object) -> Sandboxes:
        logs = tmp_path / f"logs-{len(made)}"
        logs.mkdir()
        filled = {key: str(value) for key, value in variables.items()}
        made.append(Sandboxes(read_compose(name, filled), image, logs))
        return made[-1]

    yield make
    for stack in reversed(made):
        stack.stop()


@pytest.fixture(scope="session")
def compose() -> Callable[..., dict[str, Any]]:
    """Return ``compose(file, variables)``: a compose file, read."""
    return read_compose


@pytest.fixture(scope="session")
def dockerfile() -> Callable[[str], list[str]]:
    """Return ``dockerfile(kind)``: the arguments of each instruction of that kind."""
    return instructions
