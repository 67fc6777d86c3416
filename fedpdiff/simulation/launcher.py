"""One ``flwr run`` on a SuperLink of its own: private port, private Flower home, neutral working directory.

The SuperLink that Flower keeps in the background is shared between runs and remembers the first one's folder
and environment; a private one has neither problem, and ends with the run.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import Popen
from typing import IO

from fedpdiff.config.settings import Value
from fedpdiff.errors import RunError
from fedpdiff.simulation.processes import ProcessFamily, exit_on_signals

COMPLETED = "finished:completed"
_START_SECONDS = 300.0  # on a busy machine; one that died is noticed at once
_POLL_SECONDS = 0.5
_STARTED = re.compile(rb"Successfully started run (\d+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ROUTINE = re.compile(r"^INFO|INFO \[uvicorn")
_SOCKET_PATH = 104  # longest path of a Unix socket, of which Ray's own folders take about 70 characters


def to_toml(settings: Mapping[str, Value]) -> str:
    """Write flat settings as TOML, one per line (JSON's numbers, strings and booleans are TOML's too)."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())


def federation_settings(clients: int, gpus: int = 0, most: int | None = None) -> dict[str, Value]:
    """Return Flower's simulation settings: one CPU per client, as many clients at once as there are CPUs.

    Parameters
    ----------
    clients
        Number of simulated clients.
    gpus
        GPUs of this machine that the clients are spread over.
    most
        Clients at once, whatever the number of CPUs; None: as many as there are.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = min(clients, cpus, most or clients)
    settings: dict[str, Value] = {
        "num-supernodes": clients,
        "client-resources-num-cpus": 1,
        "init-args-num-cpus": at_once,
    }
    if gpus:
        per_gpu = -(-at_once // gpus)
        settings["client-resources-num-gpus"] = int(1000 / per_gpu) / 1000  # rounded down, so that all fit
    return settings


def run_flower(
    app: Path,
    run_config: Mapping[str, Value],
    federation: Mapping[str, Value],
    log: Path,
    on_wait: Callable[[], None] = lambda: None,
    threads: int = 0,
    is_complete: Callable[[], bool] = lambda: False,
) -> str:
    """Run a Flower app in simulation and wait for its end; no process outlives the call.

    Parameters
    ----------
    app
        Folder with the app's pyproject.toml.
    run_config
        Settings that override the app's.
    federation
        Flower's simulation settings.
    log
        File that receives the output of every process.
    on_wait
        Called about twice a second while the run goes on.
    threads
        CPU threads per process; 0 leaves the libraries' own choice.
    is_complete
        Asked once `flwr run` has ended: whether the run has left its last result. Only if it has not, Flower
        is asked how the run ended, which takes seconds.

    Returns
    -------
    str
        The run's final status, ``finished:completed`` when all went well.

    Raises
    ------
    RunError
        When Flower does not start or refuses the run.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        exit_on_signals(),
        tempfile.TemporaryDirectory(prefix="fedpdiff-", ignore_cleanup_errors=True) as folder,
        log.open("ab") as output,
        ProcessFamily(_environment(Path(folder), threads), _neutral(folder), output) as family,
    ):
        port = _free_port()
        _write_home(Path(folder), port)
        superlink = family.start(
            [
                _tool("flower-superlink"),
                "--insecure",
                "--simulation",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ]
        )
        _wait_for_port(superlink, port, log)
        command: list[str | Path] = [_tool("flwr"), "run", app, "--stream"]
        command += ["--run-config", _write(Path(folder) / "run-config.toml", run_config)]
        command += ["--federation-config", _write(Path(folder) / "federation.toml", federation)]
        start = log.stat().st_size
        exit_status = _call(family, command, superlink, log, on_wait)
        started = _STARTED.findall(log.read_bytes()[start:])
        if exit_status or not started:
            raise RunError(f"Flower refused the run; the end of {log}:\n{tail(log)}")
        if is_complete():
            return COMPLETED
        return _status(family, started[0].decode(), Path(folder), superlink, log)


def tail(log: Path, lines: int = 25) -> str:
    """Return the last lines of a log, without colours and routine messages."""
    text = _COLOUR.sub("", log.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(
        [line for line in text.splitlines() if line.strip() and not _ROUTINE.search(line)][-lines:]
    )


def _tool(name: str) -> Path:
    return Path(sys.executable).parent / name


def _neutral(folder: str) -> Path:
    """Make an empty working directory: Ray's workers import from it before anything else."""
    neutral = Path(folder) / "empty"
    neutral.mkdir()
    return neutral


def _environment(folder: Path, threads: int) -> dict[str, str]:
    """Return this environment with everything that could make the run depend on the machine taken care of."""
    tools = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([tools, os.environ.get("PATH", "")]),
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # or Flower downloads another torch
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_ADDRESS": "local",  # never join another Ray cluster on this host
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keep GPUs visible to clients that reserve none
        "PYTHONUNBUFFERED": "1",
    }
    if len(str(folder)) + 75 < _SOCKET_PATH:
        environment["RAY_TMPDIR"] = str(folder)  # removed with the folder
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_home(folder: Path, port: int) -> None:
    home = folder / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "private"\n\n'
        f'[superlink.private]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )


def _write(path: Path, settings: Mapping[str, Value]) -> Path:
    path.write_text(to_toml(settings), encoding="utf-8")
    return path


def _wait_for_port(superlink: Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if superlink.poll() is not None:
            raise RunError(f"Flower's SuperLink ended with exit status {superlink.returncode}; see {log}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RunError(f"Flower's SuperLink did not start within {_START_SECONDS:.0f} seconds; see {log}")


def _call(
    family: ProcessFamily,
    command: list[str | Path],
    superlink: Popen[bytes],
    log: Path,
    on_wait: Callable[[], None] = lambda: None,
    stdout: IO[bytes] | None = None,
) -> int:
    """Run a Flower command to its end and return its exit status."""
    process = family.start(command, stdout)
    while process.poll() is None:
        on_wait()
        if superlink.poll() is not None:
            raise RunError(f"Flower's SuperLink ended before the run did; the end of {log}:\n{tail(log)}")
        time.sleep(_POLL_SECONDS)
    on_wait()
    return process.returncode


def _status(family: ProcessFamily, run_id: str, folder: Path, superlink: Popen[bytes], log: Path) -> str:
    """Ask for the run's status, because ``flwr run`` exits with 0 even when the run failed."""
    command: list[str | Path] = [_tool("flwr"), "list", "--run-id", run_id, "--format", "json"]
    with (folder / "answer.json").open("w+b") as answer:
        _call(family, command, superlink, log, stdout=answer)
        answer.seek(0)
        text = answer.read().decode("utf-8", "replace")
    try:
        return str(json.loads(text)["runs"][0]["status"])
    except (ValueError, LookupError) as error:
        raise RunError(
            f"Flower gave no clear answer about run {run_id}: {text[-200:]!r}; see {log}"
        ) from error
