"""Charts of a run: distances by method, losses, and who did what when."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator

from fedpdiff.report.style import CYCLE, figure, method_colour, save, styled
from fedpdiff.report.table import shown_methods
from fedpdiff.report.wording import GROUPS, duration, method_title, number
from fedpdiff.results import ClientResults, Group, Method, Results

MAX_CLIENTS = 12  # rows that stay readable


@styled
def distances(results: Results, path: Path) -> Path | None:
    """Draw Frechet distances as bars, one panel per group; ``None`` when there are none."""
    methods = shown_methods(results)
    clients = results.clients[:MAX_CLIENTS]
    groups = [g for g in GROUPS if any(c.frechet(g, m) is not None for c in clients for m in methods)]
    if not groups:
        return None
    height = 0.75 + len(clients) * (0.19 * len(methods) + 0.16)
    canvas = figure(7.8, height)  # one panel, too: the legend needs it
    for place, group in enumerate(groups):
        axes = canvas.add_subplot(1, len(groups), place + 1)
        _bars(axes, clients, group, methods)
        axes.set_title(f"{group} classes", size=9.5, weight="bold", loc="left")
        axes.set_xlabel("Frechet distance (lower is better)")
        if place:
            axes.set_yticklabels([])
    handles = [legend_patch(method_colour(m), method_title(m, results)) for m in methods]
    canvas.legend(handles=handles, loc="upper center", ncols=len(methods), frameon=False,
                  bbox_to_anchor=(0.5, 1.0))  # fmt: skip
    canvas.tight_layout(rect=(0, 0, 1, 1 - 0.28 / height))
    return save(canvas, path)


def _bars(axes: Axes, clients: list[ClientResults], group: Group, methods: list[Method]) -> None:
    thick = 0.8 / len(methods)
    largest = max((c.frechet(group, m) or 0.0 for c in clients for m in methods), default=0.0)
    for row, client in enumerate(clients):
        for place, method in enumerate(methods):
            value = client.frechet(group, method)
            if value is None:
                continue
            y = row - 0.4 + (place + 0.5) * thick
            axes.barh(y, value, height=0.86 * thick, color=method_colour(method))
            axes.text(value + 0.015 * largest, y, number(value), va="center", size=7)
    axes.set_yticks(range(len(clients)), [_short(client.name) for client in clients])
    axes.set_ylim(len(clients) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * largest or 1)
    axes.tick_params(axis="y", length=0)


@styled
def losses(events: list[dict[str, Any]], path: Path) -> Path | None:
    """Draw the loss of every training, one panel per kind of training; ``None`` without losses."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        if event.get("loss") is not None:
            curves[str(event["phase"])][str(event["who"])].append((event["done"], event["loss"]))
    if not curves:
        return None
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    canvas = figure(7.8 * columns / 3 if columns > 1 else 4, 2.2 * rows)
    for place, (phase, participants) in enumerate(curves.items()):
        axes = canvas.add_subplot(rows, columns, place + 1)
        for index, (who, points) in enumerate(sorted(participants.items())):
            axes.plot(*zip(*points, strict=True), color=CYCLE[index % len(CYCLE)], lw=1.2, label=_short(who))
        axes.set_yscale("log")
        axes.set_title(phase, size=9.5, weight="bold", loc="left")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if 1 < len(participants) <= 8:
            axes.legend(frameon=False, fontsize=7)
    canvas.tight_layout()
    return save(canvas, path)


@styled
def timeline(events: list[dict[str, Any]], path: Path) -> Path | None:
    """Draw the phases of every participant over time; ``None`` without events."""
    spans = phase_spans(events)
    if not spans:
        return None
    people = sorted({who for who, *_ in spans}, key=_server_first)[: MAX_CLIENTS + 1]
    phases = list(dict.fromkeys(phase for _, phase, *_ in spans))
    canvas = figure(7.8, 1.05 + 0.3 * len(people) + 0.18 * (-(-len(phases) // 5) - 1))
    axes = canvas.add_subplot()
    start = min(begin for *_, begin, _ in spans)
    for who, phase, begin, end in spans:
        if who in people:
            colour = CYCLE[phases.index(phase) % len(CYCLE)]
            axes.barh(
                people.index(who), max(end - begin, 0.05), left=begin - start, height=0.55, color=colour
            )
    total = max(end for *_, end in spans) - start
    axes.set_yticks(range(len(people)), [_short(who) for who in people])
    axes.set_ylim(len(people) - 0.4, -0.6)
    axes.set_xlim(0, total or 1)
    axes.set_xlabel(f"seconds since the first phase ({duration(total)} in all)")
    axes.tick_params(axis="y", length=0)
    handles = [legend_patch(CYCLE[i % len(CYCLE)], phase) for i, phase in enumerate(phases)]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=min(5, len(phases)),
                frameon=False, fontsize=7.5)  # fmt: skip
    canvas.tight_layout()
    return save(canvas, path)


def phase_spans(events: list[dict[str, Any]]) -> list[tuple[str, str, float, float]]:
    """Return (who, phase, begin, end) in Unix seconds; a phase that never ended reaches its last event."""
    spans: list[tuple[str, str, float, float]] = []
    running: dict[tuple[str, str], tuple[float, float]] = {}
    for event in events:
        key = (str(event["who"]), str(event["phase"]))
        begin = event["time"] if event["state"] == "start" else running.get(key, (event["time"],))[0]
        running[key] = (begin, event["time"])
        if event["state"] == "end":
            spans.append((*key, *running.pop(key)))
    spans += [(*key, *times) for key, times in running.items()]
    return sorted(spans, key=lambda span: span[2])


def legend_patch(colour: str, label: str) -> Patch:
    """Return a coloured square with a label, for a legend."""
    return Patch(color=colour, label=_short(label))


def _server_first(who: str) -> tuple[bool, int, str]:
    return (who != "server", len(who), who)


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
