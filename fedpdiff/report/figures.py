"""Every figure of a run, drawn into its ``figures`` folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedpdiff.attack_results import AttackResults
from fedpdiff.report import attack_charts, charts, grids
from fedpdiff.report.run_files import RunFiles


@dataclass(frozen=True)
class ReportFigure:
    """A PNG with what a reader needs beside it.

    Parameters
    ----------
    path
        The file.
    kind
        ``hero``, ``client``, ``distances``, ``losses``, ``timeline``, or of the attacks ``recovered``,
        ``levels``, ``roc`` or ``epsilon``.
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
    pfdm = run.results.method == "pfdm"
    many = len(run.results.clients) > charts.MAX_CLIENTS
    some = f" The first {charts.MAX_CLIENTS} of {len(run.results.clients):,} clients." if many else ""

    def add(kind: str, path: Path | None, caption: str) -> None:
        if path is not None:
            figures.append(ReportFigure(path, kind, caption))

    for client in run.results.clients[: charts.MAX_CLIENTS]:
        number, name = client.client, client.name
        hero = grids.hero(run, client, folder / f"hero-{number}.png")
        beside = "local-only samples, PFDM samples" if pfdm else f"{run.results.method_title} samples"
        add("hero", hero, f"{name}'s rare classes: real images, {beside}.")
        grid = grids.client_grid(run, client, folder / f"client-{number}.png")
        add("client", grid, f"Images of every class of {name}; its rare classes stand above.")
    add(
        "distances",
        charts.distances(run.results, folder / "distances.png"),
        "Frechet distance to real test images by client, method and group of classes; shorter is better."
        + some,
    )
    add(
        "timeline",
        charts.timeline(run.events, folder / "timeline.png"),
        "What server and clients did when; clients train while the server trains." + some,
    )
    add(
        "losses",
        charts.losses(run.events, folder / "losses.png"),
        "Training losses; comparable within a panel only.",
    )
    return figures + (_attack_figures(run.attacks, run.folder) if run.attacks else [])


def _attack_figures(attacks: AttackResults, folder: Path) -> list[ReportFigure]:
    """Draw what the attacks found; nothing when a control failed, because it would look like a finding."""
    if not attacks.controls_work:
        return []
    drawn = {
        "recovered": (
            attack_charts.recovered(attacks, folder, folder / "figures" / "recovered.png"),
            "Originals (clipped, as they were noised), their uploads at several noise levels, and what the "
            "strongest attack mounted at each level makes of them. Where that looks like the guess, which "
            "needs no upload, the upload gave nothing away.",
        ),
        "levels": (
            attack_charts.levels(attacks, folder / "figures" / "attack-levels.png"),
            "The same attacks at other noise levels, with the same images and clip norm.",
        ),
        "roc": (
            attack_charts.roc(attacks, folder / "figures" / "attack-roc.png"),
            "Members recognised against strangers taken for members, by the strongest attack on each "
            "target. No attack on uploads or global model can rise above the cap.",
        ),
        "epsilon": (
            attack_charts.epsilon(attacks, folder / "figures" / "attack-epsilon.png"),
            "Epsilon of one image as measured beside the stated one. Arrows: at least this much is proved.",
        ),
    }
    return [ReportFigure(path, kind, caption) for kind, (path, caption) in drawn.items() if path is not None]
