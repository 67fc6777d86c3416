"""The ServerApp: read the settings, run PFDM, write results and report."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import RunNotRunningException

from fedpdiff.config import PFDM as PFDM_NAME
from fedpdiff.config import RunConfig
from fedpdiff.errors import FedpdiffError, RunError, is_full
from fedpdiff.federation.device import is_out_of_memory, out_of_memory
from fedpdiff.federation.server import ServerTasks
from fedpdiff.report.page import write_failure, write_report
from fedpdiff.report.table import results_table
from fedpdiff.runfolder import RunFolder, write_text
from server_app.bounds import Bounds
from server_app.outcome import build_results
from server_app.pfdm import PFDM
from server_app.rounds import Rounds

log = logging.getLogger("flwr")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation from settings to report; raises when it fails, so that Flower records it."""
    config = RunConfig.parse(context.run_config)
    folder = RunFolder.of(config, context.run_id)
    folder.check(config)
    with folder.locked(), _one_clear_error(config, folder):
        folder.prepare(config)
        _run(grid, config, folder)


def _run(grid: Grid, config: RunConfig, folder: RunFolder) -> None:
    tasks = ServerTasks(config, folder)
    strategy = PFDM(config, tasks) if config.method == PFDM_NAME else Rounds(config, tasks)
    tasks.check()
    bounds = Bounds(strategy, tasks)
    strategy.start(grid, beside=bounds.compute)
    results = build_results(strategy, tasks, bounds)
    results.write(folder.root)
    folder.table.write_text(results_table(results), encoding="utf-8")
    write_report(folder.root)
    log.info("%s", results_table(results))
    log.info("Report: %s", folder.report)


@contextmanager
def _one_clear_error(config: RunConfig, folder: RunFolder) -> Iterator[None]:
    """Write why a run failed to ``error.txt``; say in the project's own words what others' errors mean."""
    try:
        yield
    except Exception as error:
        clear = _in_own_words(error, config, folder)
        with suppress(OSError):  # the disk may be full
            write_text(folder.error, f"{type(clear).__name__}: {clear}\n")
            write_failure(folder.root)
        if clear is error:
            raise
        raise clear from error


def _in_own_words(error: Exception, config: RunConfig, folder: RunFolder) -> Exception:
    again = f"flwr run with run-dir = {folder.root} goes on from there"
    if isinstance(error, FedpdiffError):
        return error
    if is_out_of_memory(error):
        return out_of_memory(config, ", at the coordinator")
    if is_full(error):
        return RunError(
            f"the coordinator's disk is full ({error}); nothing that was accepted is lost: make room, and "
            f"{again}"
        )
    if isinstance(error, httpx.HTTPError | RunNotRunningException):
        return RunError(
            f"the SuperLink no longer answers this run ({type(error).__name__}: {error}); its log says more. "
            f"Nothing that was accepted is lost: {again}"
        )
    return error
