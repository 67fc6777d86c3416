"""A preset from its settings to its result table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from fedpdiff.config import RunConfig
from fedpdiff.config.settings import Value
from fedpdiff.errors import RunError
from fedpdiff.report.table import statement_line
from fedpdiff.runfolder import RunFolder
from fedpdiff.simulation.gpu_clients import clients_per_gpu, count_gpus
from fedpdiff.simulation.launcher import COMPLETED, federation_settings, run_flower, tail
from fedpdiff.simulation.presets import Preset, configure
from fedpdiff.simulation.progress import EventReader, display


def simulate(app: Path, preset: Preset, overrides: Mapping[str, Value], out: str | None = None) -> int:
    """Run ``preset`` as a Flower simulation of ``app``, show its progress and print its results.

    Parameters
    ----------
    app
        Folder of the Flower app.
    preset
        The preset to run.
    overrides
        Settings that take precedence over the preset's.
    out
        Run folder; default ``runs/PRESET-TIME`` in the current folder.

    Returns
    -------
    int
        0 when the run finished, 1 when it failed.

    Raises
    ------
    ConfigError
        When the settings cannot work, or ``out`` already holds a finished run or one of other settings.
    """
    began = time.monotonic()
    default = f"runs/{preset.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    run_dir = Path(out or overrides.get("run-dir") or default).expanduser().absolute()  # type: ignore[arg-type]
    config = configure(preset, overrides, run_dir)
    folder = RunFolder(run_dir)
    folder.check(config)
    console = Console()
    console.print(f"{preset.name}: results go to {run_dir}", highlight=False, soft_wrap=True)
    failure = _launch(app, config, run_dir, console)
    if failure:
        print(f"fedpdiff: the run failed: {failure}", file=sys.stderr)
        return 1
    print("\n" + folder.table.read_text(encoding="utf-8").strip() + "\n")
    print(f"Report: {folder.report}")
    print(f"Time:   {_minutes(time.monotonic() - began)}")
    return 0


def _launch(app: Path, config: RunConfig, run_dir: Path, console: Console) -> str:
    """Run the app and return why it failed, or an empty string."""
    log = run_dir / "flower.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(run_dir)
    folder.clear()
    events, privacy = EventReader(run_dir), PrivacyReader(run_dir)
    with display(console) as shown:

        def on_wait() -> None:
            for line in privacy.new():
                shown.say(line)
            for event in events.new():
                shown.show(event)

        try:
            federation = _federation(config, log, shown.say)
            status = run_flower(
                app, config.flat(), federation, log, on_wait, config.threads, lambda: folder.complete
            )
        except RunError as error:
            return str(error)
    if status == COMPLETED and folder.complete:
        return ""
    return _cause(run_dir, log, status)


def _federation(config: RunConfig, log: Path, say: Callable[[str], None]) -> dict[str, Value]:
    """Return Flower's simulation settings; with GPUs, measure first how many clients these have room for."""
    gpus = count_gpus(config.device)
    if not gpus:
        return federation_settings(config.clients)
    with log.open("ab") as output:
        per_gpu, why = clients_per_gpu(config, output)
    say(why)
    named = config.device not in ("auto", "cuda")  # Ray would hide it, or call it cuda:0
    return federation_settings(config.clients, 0 if named else gpus, gpus * per_gpu)


class PrivacyReader:
    """Reads what the server writes about the run's privacy, before any client is asked and after."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "privacy.json"
        self._said: set[str] = set()

    def new(self) -> list[str]:
        """Return the statement and the cautions that were not returned before."""
        if not self._path.is_file():
            return []
        found = json.loads(self._path.read_text(encoding="utf-8"))
        lines = [statement_line(found["statement"]), *found["cautions"]]
        new = [line for line in lines if line not in self._said]
        self._said.update(new)
        return new


def _cause(run_dir: Path, log: Path, status: str) -> str:
    """Return what the server wrote about its failure, or the end of the log."""
    written = run_dir / "error.txt"
    if written.exists():
        return f"{written.read_text(encoding='utf-8').strip()}\n(everything that was logged: {log})"
    return f"Flower says {status}; the end of {log}:\n{tail(log)}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
