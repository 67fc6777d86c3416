"""Where things lie in a run folder and in a client's own folder."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.errors import ConfigError, RunError

FORMAT = "fedpdiff-run/1"
_FORMAT_FILE = "format.json"
_PACKAGES = ("fedpdiff", "flwr", "torch", "diffusers", "ray", "numpy", "datasets", "pytorch-fid")

MAY_CHANGE = ("run-dir", "min-clients", "wait-seconds", "reply-seconds", "gpu-clients", "compile")
"""How long to wait, how many compute at once, and how fast, decides no more than rounding; it may move."""

_LOCK_SECONDS = 60.0  # Flower needs so long to notice that an earlier attempt's process is to end


class RunFolder:
    """Paths of a run; everything that tables, figures and the report need lies below ``root``.

    Parameters
    ----------
    root
        The run folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events = root / "events"
        self.global_half = root / "server" / "global"
        self.global_checkpoint = root / "server" / "global-checkpoint.safetensors"
        self.centralised = root / "server" / "centralised"
        self.centralised_checkpoint = root / "server" / "centralised-checkpoint.safetensors"
        self.features = root / "server" / "features"
        self.privacy = root / "privacy.json"
        self.error = root / "error.txt"
        self.table = root / "results.md"
        self.report = root / "report.html"
        self.participants = root / "participants.json"
        self.pool = root / "server" / "pool.json"
        self.rounds = root / "server" / "rounds.safetensors"
        self.lock = root / "server" / ".lock"

    @classmethod
    def of(cls, config: RunConfig, run_id: int) -> RunFolder:
        """Return the folder of a run: ``run-dir``, or one named after Flower's run id in the home folder."""
        if config.run_dir:
            return cls(Path(config.run_dir))
        return cls(Path.home() / "fedpdiff-runs" / f"run-{run_id}")

    def spool(self, site: str) -> Path:
        """Return the folder for the validated shards of one site."""
        return self.root / "server" / "spool" / site

    def spools(self) -> list[Path]:
        """Return the folders of all sites whose uploads are pooled."""
        return sorted(path.parent for path in (self.root / "server" / "spool").glob("*/manifest.json"))

    def client(self, number: int) -> Path:
        """Return the folder of a simulated client."""
        return self.root / f"client-{number}"

    @property
    def busy(self) -> bool:
        """Whether a run is at work in it."""
        try:
            with self.lock.open() as file:
                return not _lock(file)
        except FileNotFoundError:
            return False

    def check(self, config: RunConfig) -> None:
        """Refuse a folder in which a run with these settings can neither begin nor go on; writes nothing.

        Raises
        ------
        ConfigError
            When it holds a finished run, or one of other settings.
        RunError
            When it is of another format, or its uploads were deleted.
        """
        check_format(self.root)
        if any((self.root / "server" / "spool").glob("*/deleted.json")):
            raise RunError(
                f'run-dir = "{self.root}" holds a run whose uploads were deleted, and the record of that: '
                "choose another folder"
            )
        if (self.root / "results.json").exists():
            raise ConfigError(
                f"run-dir = {self.root}: already holds a finished run; choose another folder (fedpdiff "
                "report makes its page again)"
            )
        try:
            earlier = json.loads((self.root / "config.json").read_text("utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"run-dir = {self.root}: its config.json cannot be read ({type(error).__name__}); choose "
                "another folder, or delete this one to start afresh"
            ) from None
        now = config.flat()
        other = [
            f"{key} = {earlier.get(key)!r} there, {now.get(key)!r} now"
            for key in sorted(set(earlier) | set(now))
            if key not in MAY_CHANGE and earlier.get(key) != now.get(key)
        ]
        if other:
            raise ConfigError(
                f"run-dir = {self.root}: holds a run of other settings ({'; '.join(other[:5])}), whose "
                "uploads must not be mixed with this one's; choose another folder, or delete that one to "
                "start afresh"
            )

    def prepare(self, config: RunConfig) -> None:
        """Write settings and environment; uploads, checkpoints and progress of an earlier attempt stay.

        Raises
        ------
        ConfigError
            When it holds a finished run, or one of other settings.
        """
        self.check(config)
        self.root.mkdir(parents=True, exist_ok=True)
        write_json(self.root / _FORMAT_FILE, {"format": FORMAT})
        # What attacks found in an earlier attempt is not true of this one.
        shutil.rmtree(self.root / "attacks", ignore_errors=True)
        self.clear()
        for left_over in (self.participants, self.root / "attacks.json"):
            left_over.unlink(missing_ok=True)
        write_json(self.root / "config.json", config.flat())
        write_json(self.root / "environment.json", environment())

    def clear(self) -> None:
        """Remove what an attempt that did not finish said of itself."""
        for left_over in (self.error, self.privacy, self.table, self.report):
            left_over.unlink(missing_ok=True)

    @property
    def complete(self) -> bool:
        """Whether a run has written its table and its report, which is its last act, and no failure."""
        return self.table.is_file() and self.report.is_file() and not self.error.exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from running in this folder.

        Raises
        ------
        RunError
            When another one does, and does not end within a minute.
        """
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with self.lock.open("w") as file:
            deadline = time.monotonic() + _LOCK_SECONDS
            while not _lock(file):
                if time.monotonic() > deadline:
                    raise RunError(
                        f"run-dir = {self.root}: another run is at work in it; wait for its end, or end it "
                        "with flwr stop"
                    )
                time.sleep(0.5)
            yield  # the lock goes when the file is closed, or its process ends


class ClientFolder:
    """Paths of one client.

    In simulation the folder is part of the run folder, so each run has its own state; in deployment it is the
    site's ``state-dir`` and outlives runs, because a release does.
    """

    def __init__(self, root: Path, events: Path, locks: Path) -> None:
        self.root = root
        self.events = events
        self.locks = locks
        self.agreement = root / "state" / "agreement"
        self.release = root / "state" / "release"
        self.witness = root / "witness.json"
        self.personal = root / "state" / "personal"
        self.local = root / "state" / "local"
        self.samples = root / "samples"
        self.sampled = root / "state" / "sampled.json"
        self.scores = root / "scores.json"

    @classmethod
    def of(cls, config: RunConfig, node: NodeConfig, run_id: int) -> ClientFolder:
        """Return the folder of this client."""
        if node.simulated:
            run = RunFolder.of(config, run_id)
            return cls(run.client(node.partition_id or 0), run.events, run.lock.parent)
        root = Path(node.state_dir)
        return cls(root, root / "events", root / "state")

    def prepare(self) -> None:
        """Make the folder, for its owner only: personal models, samples and scores lie in it."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process trains or samples for this client.

        A restarted site can be asked again while the process that it asked first still works; that one's
        result is then found finished.
        """
        lock = self.root / "state" / "lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def checkpoint(self, name: str) -> Path:
        """Return the checkpoint file of one training."""
        return self.root / "state" / f"{name}-checkpoint.safetensors"


def check_format(root: Path) -> None:
    """Refuse a run folder that another version of fedpdiff laid out otherwise.

    Parameters
    ----------
    root
        A run folder; one without ``format.json`` was made before it was marked, and is laid out as today's.

    Raises
    ------
    RunError
        Naming its format.
    """
    path = root / _FORMAT_FILE
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text("utf-8"))["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is damaged ({type(error).__name__}); it says how the run folder is laid out"
        ) from error
    if found != FORMAT:
        raise RunError(
            f"{root} has the format {str(found)[:40]!r}, but this version reads {FORMAT!r}: use the version "
            "of fedpdiff that made the run, or a newer one"
        )


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def environment() -> dict[str, Any]:
    """Return versions and machine facts that a run may depend on."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": versions,
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
