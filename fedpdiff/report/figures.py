"""Every figure of a run, drawn into its ``figures`` folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedpdiff.report import charts, grids
from fedpdiff.report.run_files import RunFiles


@dataclass(frozen=True)
class ReportFigure:
    """A PNG with what a reader needs beside it.

    Parameters
    ----------
    path
        The file.
    kind
        ``hero``, ``client``, ``distances``, ``losses`` or ``timeline``.
    caption
        One sentence below the picture; also its text alternative.
    """

    path: Path
    kind: str
    caption: str


def draw_figures(run: RunFiles) -> list[ReportFigure]:
    """Draw what the run folder has material for and return it in the order of the page."""
    folder = run.folder / "figures"
    figures = []

    def add(kind: str, path: Path | None, caption: str) -> None:
        if path is not None:
            figures.append(ReportFigure(path, kind, caption))

    for client in run.results.clients:
        number, name = client.client, client.name
        hero = grids.hero(run, client, folder / f"hero-{number}.png")
        add("hero", hero, f"{name}'s rare classes: real images, local-only samples, PFDM samples.")
        grid = grids.client_grid(run, client, folder / f"client-{number}.png")
        add("client", grid, f"Images of every class of {name}; its rare classes stand above.")
    add(
        "distances",
        charts.distances(run.results, folder / "distances.png"),
        "Frechet distance to real test images by client, method and group of classes; shorter is better.",
    )
    add(
        "timeline",
        charts.timeline(run.events, folder / "timeline.png"),
        "What server and clients did when; clients train while the server trains.",
    )
    add(
        "losses",
        charts.losses(run.events, folder / "losses.png"),
        "Training losses; comparable within a panel only.",
    )
    return figures
