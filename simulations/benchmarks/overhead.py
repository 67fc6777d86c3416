"""What a simulated run takes beside computing, and when its phases run: the quickstart.

Computing is the time in which the server or at least one client is in a phase that computes, by their
event files. The rest is what a user waits for otherwise. It includes the scores of the bounds, the
figures and the report after the last phase, although they are work too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpdiff.events import read_events
from fedpdiff.report.charts import phase_spans, timeline
from simulations.benchmarks.simulated_run import SimulatedRun, simulate
from simulations.benchmarks.table import Figure

Interval = tuple[float, float]

PER_CENT = 100.0
GOAL = 15.0  # per cent of the wall time
LONG, GOAL_LONG = 3600.0, 3.0  # seconds, and per cent of them
WAITING = "upload"  # the one phase in which nobody computes: the server waits for releases and shards
SETTINGS: dict[str, bool | int | float | str] = {}  # that differ from the quickstart's
RESTS = {
    "start": "start-up: SuperLink, `flwr run`, Ray and imports, until the first phase",
    "upload": "the upload phase, but for making the releases: the actors' imports, transfer, checks",
    "between": "between the phases after it: messages, the global half on its way",
    "report": "after the last phase: scores of the bounds, figures, report",
    "stop": "the end: processes stop",
}


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures."""
    found = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(prefix="fedpdiff-overhead-") as folder:
            run = simulate(Path(folder) / "run", SETTINGS)
            events = read_events(run.folder / "events")
            found.append((run.seconds, *_shares(run, events)))
    seconds, rests, overlaps = zip(*found, strict=True)
    yield Figure("quickstart, wall time", seconds, "s", at={"events": _ends(events)})
    total = tuple(PER_CENT * sum(rest.values()) for rest in rests)
    yield Figure("of it not computing", total, "%", GOAL, "at most")
    hour = tuple(share / LONG * wall for share, wall in zip(total, seconds, strict=True))
    yield Figure("computed: so many seconds of a run of an hour", hour, "%", GOAL_LONG, "at most")
    for name, words in RESTS.items():
        yield Figure(f"- {words}", tuple(PER_CENT * rest[name] for rest in rests), "%")
    together = "of the global training, while a client trains its personal half"
    yield Figure(together, tuple(PER_CENT * share for share in overlaps), "%")


def _shares(run: SimulatedRun, events: list[dict[str, Any]]) -> tuple[dict[str, float], float]:
    report = (run.folder / "report.html").stat().st_mtime
    return rest(events, run.began, report, run.ended), overlap(events)


def rest(events: list[dict[str, Any]], began: float, report: float, ended: float) -> dict[str, float]:
    """Return what shares of a run's wall time nobody computes in, by where they lie (``RESTS``).

    Parameters
    ----------
    events
        Of the run, ordered by time.
    began, report, ended
        When the command started, the report was written, and the command had ended, Unix seconds.
    """
    spans = phase_spans(events)
    computing = [(begin, end) for _, phase, begin, end in spans if phase != WAITING]
    first, last = min(begin for *_, begin, _ in spans), max(end for *_, end in spans)
    uploaded = max(end for who, phase, _, end in spans if (who, phase) == ("server", WAITING))
    parts = {
        "start": first - began,
        "upload": uploaded - first - _covered(computing, (first, uploaded)),
        "between": last - uploaded - _covered(computing, (uploaded, last)),
        "report": report - last,
        "stop": ended - report,
    }
    return {name: seconds / (ended - began) for name, seconds in parts.items()}


def overlap(events: list[dict[str, Any]]) -> float:
    """Return the share of the global training during which at least one client trains its personal half."""
    spans = phase_spans(events)
    server = next((begin, end) for _, phase, begin, end in spans if phase == "global training")
    clients = [(begin, end) for _, phase, begin, end in spans if phase == "personal training"]
    return _covered(clients, server) / (server[1] - server[0])


def _covered(intervals: Iterable[Interval], within: Interval) -> float:
    """Return how much of one interval others cover together, seconds."""
    seconds, reached = 0.0, within[0]
    for begin, end in sorted(intervals):
        begin, end = max(begin, reached), min(end, within[1])
        if end > begin:
            seconds, reached = seconds + end - begin, end
    return seconds


def _ends(events: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """Return where phases begin and end, in seconds since the first: what the timeline is drawn from."""
    first = events[0]["time"]
    return [
        {"time": round(event["time"] - first, 2), **{key: event[key] for key in ("who", "phase", "state")}}
        for event in events
        if event["state"] != "progress"
    ]


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Draw the phases of the last run over time."""
    timeline(figures[0].at["events"], path)
