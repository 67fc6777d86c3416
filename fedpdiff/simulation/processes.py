"""Processes that end together, whatever they started themselves and however this one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Self

import psutil

MARK = "FEDPDIFF_LAUNCH"
_GRACE_SECONDS = 10.0


class ProcessFamily:
    """Starts processes and, on exit, ends them with all their descendants.

    Ray's daemons leave their parent and its process group, so descendants are recognised by a variable in
    the environment that each of them inherits. A family that one of its members starts belongs to it too:
    its mark begins with this one's.

    Parameters
    ----------
    environment
        Environment of every process.
    folder
        Working directory of every process.
    log
        Receives their output.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path, log: IO[bytes] | int) -> None:
        self.mark = f"{environment.get(MARK, '')}/{uuid.uuid4().hex}"
        self._environment = {**environment, MARK: self.mark}
        self._folder = folder
        self._log = log

    def start(
        self,
        command: Sequence[str | Path],
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process out of reach of the terminal's Ctrl-C, so that this class alone ends it."""
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=stdout or self._log,
            stderr=stderr or self._log,
            cwd=self._folder,
            env=self._environment,
            start_new_session=True,
        )

    def members(self) -> list[psutil.Process]:
        """Return the family's processes that are still running."""
        return marked(self.mark)

    def stop(self) -> None:
        """End every member: ask first, insist after a while."""
        end_marked(self.mark)

    def __enter__(self) -> Self:
        """Return the family."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the family; a second Ctrl-C does not stop the stopping."""
        with _signals(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)):
            self.stop()


def marked(mark: str) -> list[psutil.Process]:
    """Return the running processes of the family with this mark, whoever its parents were."""
    return [process for process in psutil.process_iter() if _belongs(process, mark)]


def _belongs(process: psutil.Process, mark: str) -> bool:
    try:
        return (
            f"{process.environ().get(MARK, '')}/".startswith(f"{mark}/")
            and process.pid != os.getpid()
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (psutil.Error, OSError):  # gone by now, or another user's
        return False


def end_marked(mark: str) -> None:
    """End the family with this mark: ask first, insist after a while."""
    for send in ("terminate", "kill"):
        deadline = time.monotonic() + _GRACE_SECONDS
        while (members := marked(mark)) and time.monotonic() < deadline:
            for process in members:
                with suppress(psutil.NoSuchProcess):
                    getattr(process, send)()
            psutil.wait_procs(members, timeout=2.0)
        if not members:
            return


@contextmanager
def _signals(handlers: Mapping[signal.Signals, object]) -> Iterator[None]:
    """Install handlers for a while; only the main thread may, elsewhere this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, _: FrameType | None) -> None:
    print(f"\nfedpdiff: {signal.Signals(number).name}, ending every process of the run", file=sys.stderr)
    sys.exit(128 + number)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Turn SIGTERM, SIGHUP and SIGINT into SystemExit, so that clean-up code runs."""
    with _signals(dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGINT), _exit)):
        yield
