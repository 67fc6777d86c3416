"""A folder in which commands and start scripts run as a person would run them, as one or several users."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
SECONDS = 1200  # for one command, on a machine with much other work
_COMMANDS = {
    "fedpdiff": "fedpdiff.cli:main",
    "flower-supernode": "flwr.supernode.cli:flower_supernode",
    "flower-superexec": "flwr.supercore.cli:flower_superexec",
    "flwr-clientapp": "flwr.supernode.cli:flwr_clientapp",
}


class Machines:
    """Every process in a session of its own, with a home folder of its own.

    Parameters
    ----------
    root
        Where they work; a folder that every user can enter.
    users
        The numbers of further users by what they do.
    """

    def __init__(self, root: Path, users: Mapping[str, int]) -> None:
        self.root = root
        self.users = dict(users)
        self.words: dict[str, str] = {}  # of the commands' text, and what stands in their place
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._tools = make_tools(root / "tools") if users else TOOLS
        for who in ("me", *users):
            home = root / f"home-{who}"
            home.mkdir(mode=0o700)
            if who in users:
                os.chown(home, users[who], users[who])

    def _as(self, who: str) -> dict[str, object]:
        own = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "RAY_"))}
        tools = self._tools if who in self.users else TOOLS
        environment = own | {
            "HOME": str(self.root / f"home-{who if who in self.users else 'me'}"),
            "PATH": f"{tools}:{os.environ['PATH']}:/usr/sbin",
            "FEDPDIFF_BIN": str(tools),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "COLUMNS": "250",  # tables are not to be cut off
        }
        arguments: dict[str, object] = {"cwd": self.root, "env": environment, "stdin": subprocess.DEVNULL}
        if who in self.users:
            arguments |= {"user": self.users[who], "group": self.users[who], "extra_groups": []}
        return arguments

    def text(self, command: str) -> str:
        for word, instead in self.words.items():
            command = command.replace(word, instead)
        return command

    def run(self, command: str, who: str = "me", status: int = 0) -> str:
        """Run lines of shell and return what they print."""
        done = subprocess.run(
            ["bash", "-ec", self.text(command)],
            **self._as(who),  # type: ignore[call-overload]
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == status, f"{self.text(command)}\n{done.stdout}\n{done.stderr}"
        return str(done.stdout)

    def start(self, script: str, who: str = "me") -> subprocess.Popen[bytes]:
        """Start a script of the folder in the background."""
        with self.log_path(script).open("ab") as log:
            process = subprocess.Popen(
                [str(self.root / script)],
                **self._as(who),  # type: ignore[call-overload]
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started[script] = process
        return process

    def checkout(self) -> Path:
        """Return a copy of this checkout without the environment beside it, which is slow to walk."""
        folder = self.root / "fedpdiff"
        folder.mkdir()
        for name in ("fedpdiff", "client_app", "server_app"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, folder)
        return folder

    def log_path(self, script: str) -> Path:
        return self.root / f"{script.replace('/', '-')}.log"

    def log(self, script: str) -> str:
        return self.log_path(script).read_text(errors="replace")

    def end(self, script: str) -> None:
        """End a script as a service manager would."""
        process = self._started.pop(script)
        process.terminate()
        process.wait(timeout=180)

    def end_all(self) -> list[str]:
        """End every script; return what is left of them three minutes later."""
        sessions = [process.pid for process in self._started.values()]
        for process in self._started.values():
            process.terminate()
        deadline = time.monotonic() + 180
        while (left := _of_sessions(sessions)) and time.monotonic() < deadline:
            for process in self._started.values():
                process.poll()
            time.sleep(0.5)
        return left

    def kill(self) -> None:
        for process in self._started.values():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=180)

    def wait(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "did not happen in time"
            time.sleep(0.3)

    def wait_for_ports(self, *ports: int) -> None:
        for port in ports:
            self.wait(lambda port=port: _answers(port))  # type: ignore[misc]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _of_sessions(sessions: list[int]) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        with suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) in sessions and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.info["cmdline"] or [str(process.pid)]))
    return found


def make_tools(folder: Path) -> Path:
    """Make an environment that other users can start, with this one's packages, and return its commands."""
    python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / Path(sysconfig.get_paths()["purelib"]).parent.name / "site-packages"
    (folder / "bin").mkdir(parents=True)
    packages.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (packages / "here.pth").write_text(f"{ROOT}\n{sysconfig.get_paths()['purelib']}\n")
    (folder / "bin" / "python").symlink_to(python)
    for name, place in _COMMANDS.items():
        module, _, function = place.partition(":")
        code = f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        (folder / "bin" / name).write_text(f"#!{folder}/bin/python\n{code}")
        (folder / "bin" / name).chmod(0o755)
    return folder / "bin"


def _others_can_start_python(root: Path) -> bool:
    if os.getuid() != 0:
        return False
    probe = root / "probe"
    done = subprocess.run(
        [make_tools(probe) / "fedpdiff", "--help"],
        user=54321,
        group=54321,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
    )
    shutil.rmtree(probe)
    return done.returncode == 0


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Return a folder for everybody's commands; two further users where this machine allows it."""
    root = Path(tempfile.mkdtemp(prefix="fedpdiff-sites-"))
    root.chmod(0o755)
    users = {}
    with suppress(OSError):
        if _others_can_start_python(root):
            users = {"north": 54322, "north-net": 54321}
    machines = Machines(root, users)
    try:
        yield machines
    finally:
        machines.kill()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """Return a function that finds ports on which nothing listens."""

    def find(number: int) -> list[int]:
        probes = [socket.socket() for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [int(probe.getsockname()[1]) for probe in probes]
        for probe in probes:
            probe.close()
        return ports

    return find
