"""The ServerApp: read the settings, run PFDM, write results and report."""

from __future__ import annotations

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedpdiff.config import RunConfig
from fedpdiff.errors import FedpdiffError
from fedpdiff.federation.server import ServerTasks
from fedpdiff.report.page import write_failure, write_report
from fedpdiff.report.table import results_table
from fedpdiff.runfolder import RunFolder
from server_app.bounds import Bounds
from server_app.outcome import build_results
from server_app.pfdm import PFDM

log = logging.getLogger("flwr")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation from settings to report; raises when it fails, so that Flower records it."""
    config = RunConfig.parse(context.run_config)
    folder = RunFolder.of(config, context.run_id)
    folder.prepare(config)
    try:
        tasks = ServerTasks(config, folder)
        tasks.check()
        strategy = PFDM(config, tasks)
        bounds = Bounds(strategy, tasks)
        strategy.start(grid, beside=bounds.compute)
        results = build_results(strategy, tasks, bounds)
    except FedpdiffError as error:
        folder.error.write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")
        write_failure(folder.root)
        raise
    results.write(folder.root)
    (folder.root / "results.md").write_text(results_table(results), encoding="utf-8")
    write_report(folder.root)
    log.info("%s", results_table(results))
    log.info("Report: %s", folder.root / "report.html")
