"""Process families: descendants end with them, even those that left their parent and ignore SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedpdiff.simulation import processes
from fedpdiff.simulation.processes import ProcessFamily

STUBBORN = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:  # a daemon: reparented, in a session of its own
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(300)
    os._exit(0)
time.sleep(300)
"""

PARENT = """
import os, sys, time
from pathlib import Path
from fedpdiff.simulation.processes import ProcessFamily, exit_on_signals
folder = Path(sys.argv[1])
with exit_on_signals(), open(os.devnull, "wb") as log, ProcessFamily(os.environ, folder, log) as family:
    child = family.start([sys.executable, "-c", "import time; time.sleep(300)"])
    (folder / "started").write_text(str(child.pid))
    time.sleep(300)
"""


def wait_for(path: Path) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written")


def test_daemons_that_ignore_sigterm_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 1.0)
    with open(os.devnull, "wb") as log, ProcessFamily(os.environ, tmp_path, log) as family:
        parent = family.start([sys.executable, "-c", STUBBORN, tmp_path / "pid"])
        daemon = wait_for(tmp_path / "pid")
        assert {parent.pid, daemon} <= {process.pid for process in family.members()}
    assert family.members() == []
    assert not psutil.pid_exists(daemon)


def test_other_processes_are_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        with open(os.devnull, "wb") as log, ProcessFamily(os.environ, tmp_path, log) as family:
            family.start([sys.executable, "-c", "import time; time.sleep(300)"])
            assert bystander.pid not in {process.pid for process in family.members()}
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_family_that_a_member_starts_belongs_to_it(tmp_path: Path) -> None:
    """Killed before it could end its own family, the member leaves it to the family above."""
    with open(os.devnull, "wb") as log, ProcessFamily(os.environ, tmp_path, log) as family:
        member = family.start([sys.executable, "-c", PARENT, tmp_path])
        grandchild = wait_for(tmp_path / "started")
        member.kill()
        member.wait()
        assert [process.pid for process in family.members()] == [grandchild]
        with ProcessFamily(os.environ, tmp_path, log) as other:
            assert other.members() == []
    assert not psutil.pid_exists(grandchild)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_family(number: signal.Signals, tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stderr=subprocess.PIPE)
    child = wait_for(tmp_path / "started")
    parent.send_signal(number)
    _, message = parent.communicate(timeout=120)
    assert parent.returncode == 128 + number
    assert number.name.encode() in message
    assert not psutil.pid_exists(child)
