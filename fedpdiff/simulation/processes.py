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

_MARK = "FEDPDIFF_LAUNCH"
_GRACE_SECONDS = 10.0


class ProcessFamily:
    """Starts processes and, on exit, ends them with all their descendants.

    Ray's daemons leave their parent and its process group, so descendants are recognised by a variable in
    the environment that each of them inherits.

    Parameters
    ----------
    environment
        Environment of every process.
    folder
        Working directory of every process.
    log
        Receives their output.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path, log: IO[bytes]) -> None:
        self._mark = uuid.uuid4().hex
        self._environment = {**environment, _MARK: self._mark}
        self._folder = folder
        self._log = log

    def start(
        self, command: Sequence[str | Path], stdout: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process out of reach of the terminal's Ctrl-C, so that this class alone ends it."""
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=stdout or self._log,
            stderr=self._log,
            cwd=self._folder,
            env=self._environment,
            start_new_session=True,
        )

    def members(self) -> list[psutil.Process]:
        """Return the family's processes that are still running."""
        return [process for process in psutil.process_iter() if self._belongs(process)]

    def _belongs(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get(_MARK) == self._mark
                and process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except (psutil.Error, OSError):  # gone by now, or another user's
            return False

    def stop(self) -> None:
        """End every member: ask first, insist after a while."""
        for send in ("terminate", "kill"):
            deadline = time.monotonic() + _GRACE_SECONDS
            while (members := self.members()) and time.monotonic() < deadline:
                for process in members:
                    with suppress(psutil.NoSuchProcess):
                        getattr(process, send)()
                psutil.wait_procs(members, timeout=2.0)
            if not members:
                return

    def __enter__(self) -> Self:
        """Return the family."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the family; a second Ctrl-C does not stop the stopping."""
        with _signals({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
            self.stop()


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
