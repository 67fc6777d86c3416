"""``report.html``: one page about a run that needs no other file and no network."""

from __future__ import annotations

import base64
import os
import statistics
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from fedpdiff.events import ran_out_of_memory
from fedpdiff.report import wording
from fedpdiff.report.attack_words import attack_words
from fedpdiff.report.figures import ReportFigure, draw_figures
from fedpdiff.report.privacy_words import privacy_words
from fedpdiff.report.run_files import RunFiles, read_object
from fedpdiff.report.signatures import signatures, symptoms
from fedpdiff.report.table import results_table, shown_methods
from fedpdiff.report.template import FAILURE_PAGE, PAGE
from fedpdiff.results import ParticipantList, Results


def write_report(run_dir: Path) -> Path:
    """Draw the figures of a finished run and write ``report.html`` and ``results.md`` into its folder.

    Parameters
    ----------
    run_dir
        A run folder. Read are ``results.json`` and, where present, ``config.json``, ``environment.json``,
        ``attacks.json``, ``attacks/recovered.npz``, ``events/*.jsonl`` and ``client-*/samples/*.npz``;
        nothing outside the folder.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    RunError
        When there is no ``results.json`` (the message says what is there) or a file is damaged.
    """
    run = RunFiles.read(Path(run_dir))
    figures = draw_figures(run)
    failures = signatures(symptoms(run))
    table = results_table(run.results) + "".join(f"- {line}\n" for line in failures)
    _write(run.folder / "results.md", table)
    return _write(run.folder / "report.html", render(run, figures, failures))


def write_failure(run_dir: Path) -> Path:
    """Write ``report.html`` of a run that failed: why, who took part, who was left out and why.

    Parameters
    ----------
    run_dir
        A run folder. Read are ``error.txt`` and, where present, ``participants.json`` and ``config.json``.

    Raises
    ------
    RunError
        When ``participants.json`` or ``config.json`` is damaged.
    """
    run_dir = Path(run_dir)
    text = (
        _environment()
        .from_string(FAILURE_PAGE)
        .render(
            run_name=run_dir.resolve().name,
            reason=(run_dir / "error.txt").read_text("utf-8").strip(),
            run=ParticipantList.read(run_dir / "participants.json"),
            settings=sorted(read_object(run_dir / "config.json").items()),
        )
    )
    return _write(run_dir / "report.html", text)


def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(run: RunFiles, figures: list[ReportFigure], failures: list[str]) -> str:
    """Return the page; every text from the run folder is escaped."""
    environment = _environment()
    environment.filters.update(
        number=wording.number,
        epsilon=wording.epsilon,
        percent=wording.percent,
        bytes=wording.size,
        duration=wording.duration,
    )
    results = run.results
    return environment.from_string(PAGE).render(
        results=results,
        pfdm=results.method == "pfdm",
        headline=headline(results),
        methods=[(name, wording.method_title(name, results)) for name in shown_methods(results)],
        groups=wording.GROUPS,
        privacy=privacy_words(results, run.config),
        attacks=attack_words(run.attacks),
        deleted=run.deleted,
        figures=[_inlined(figure) for figure in figures],
        signatures=failures,
        settings=sorted(run.config.items()),
        environment=_flat(run.environment),
        run_name=run.folder.resolve().name,
        seconds=_wall_time(run),
        again=ran_out_of_memory(run.events),
    )


def headline(results: Results) -> str:
    """Return one sentence that says what collaboration did for the rare classes, gain or loss."""
    if results.method != "pfdm":
        return f"What {results.method_title} makes of the same images."
    pairs = []
    for client in results.clients:
        local, pfdm = client.frechet("minority", "local"), client.frechet("minority", "pfdm")
        if local and pfdm is not None:
            pairs.append((local, pfdm))
    if not any(client.groups for client in results.clients):
        return "The run is done; its scores stay with the clients."
    if not pairs:
        return _of_absent_classes(results) or (
            "This run has too few images of rare classes for a comparison."
        )
    change = 1 - statistics.fmean(pfdm for _, pfdm in pairs) / statistics.fmean(local for local, _ in pairs)
    who = "each client" if len(pairs) > 1 else next(c.name for c in results.clients if c.groups)
    alone = f"what {who} can make alone"
    if abs(change) < 0.01:
        return f"For rare classes, collaboration made images no closer to real ones than {alone}."
    direction = "closer to" if change > 0 else "further from"
    share = wording.percent(abs(change))
    return f"For rare classes, collaboration made images {share} {direction} real ones than {alone}."


def _of_absent_classes(results: Results) -> str:
    """Return what can be said of classes that clients have no image of; "" where there are none."""
    scores = [client.groups.get("absent", {}) for client in results.clients]
    pairs = [(one["local"].accuracy, one["pfdm"].accuracy) for one in scores if {"local", "pfdm"} <= set(one)]
    known = [(local, pfdm) for local, pfdm in pairs if local is not None and pfdm is not None]
    if not known:
        return ""
    alone, together = (wording.percent(statistics.fmean(column)) for column in zip(*known, strict=True))
    return f"Of classes that a client has no image of, {together} of the samples are right; alone {alone}."


def _inlined(figure: ReportFigure) -> dict[str, str]:
    data = base64.b64encode(figure.path.read_bytes()).decode()
    return {"kind": figure.kind, "caption": figure.caption, "source": f"data:image/png;base64,{data}"}


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key} ")
        elif value is not None:
            rows.append((prefix + key, value))
    return rows


def _wall_time(run: RunFiles) -> float | None:
    times = [event["time"] for event in run.events]
    return max(times) - min(times) if times else None


def _write(path: Path, text: str) -> Path:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path
