"""From a finished run to ``results.json``."""

from __future__ import annotations

from typing import Any

from fedpdiff.data.classes import absent_classes, class_groups
from fedpdiff.federation.server import ServerTasks, load_samples
from fedpdiff.results import (
    ClientResults,
    GroupScores,
    Results,
    gap_closed,
    mean_gap,
)
from server_app.bounds import Bounds
from server_app.federation import Federation
from server_app.participants import Site


def build_results(strategy: Federation[Any], tasks: ServerTasks, bounds: Bounds) -> Results:
    """Put together what the run measured."""
    config = tasks.config
    sites = sorted(strategy.participants.sites.values(), key=_order)
    clients = [_client(index, site, strategy, tasks, bounds) for index, site in enumerate(sites)]
    spreads = [_spread(site, strategy, tasks, bounds) for site in sites]
    gaps = [gap_closed(client, spread) for client, spread in zip(clients, spreads, strict=True)]
    features = strategy.features
    return Results(
        method=config.method,
        seed=config.seed,
        release_noise=config.release_noise,
        feature_space=tasks.space(features).name if features else "none",
        class_names=list(tasks.class_names),
        clients=clients,
        gap_closed=gaps,
        gap_closed_mean=mean_gap(gaps),
        gap_spread=spreads,
        bytes_up=[site.uploaded for site in sites],
        bytes_down=[site.bytes_down for site in sites],
        client_steps=[site.gradient_steps for site in sites],
        sampling_evaluations=config.global_sampling_steps + config.personal_sampling_steps,
        seconds=dict(strategy.seconds),
        participants=[site.name for site in sites],
        refused=strategy.participants.refused,
        **strategy.outcome(),
    )


def _order(site: Site) -> tuple[int, str]:
    number = site.manifest.number
    return (-1 if number is None else number, site.name)


def _client(
    index: int, site: Site, strategy: Federation[Any], tasks: ServerTasks, bounds: Bounds
) -> ClientResults:
    counts, number = site.manifest.class_counts, site.manifest.number
    majority, minority = class_groups(counts)
    groups: dict[str, dict[str, GroupScores]] = {group: dict(scores) for group, scores in site.scores.items()}
    if strategy.features is not None:
        for method, samples in (("centralised", bounds.centralised), ("real", bounds.real)):
            if samples is not None:
                for group, scores in tasks.judge(samples, counts, strategy.features).items():
                    groups.setdefault(group, {})[method] = scores
    return ClientResults.model_validate(
        {
            "client": index if number is None else number,
            "name": site.name,
            "classes": {
                "majority": list(majority),
                "minority": list(minority),
                "absent": list(absent_classes(counts)),
            },
            "groups": groups,
        }
    )


def _spread(site: Site, strategy: Federation[Any], tasks: ServerTasks, bounds: Bounds) -> float | None:
    number = site.manifest.number
    if bounds.centralised is None or strategy.features is None or number is None:
        return None
    local = load_samples(tasks.folder.client(number), "local")
    if local is None:
        return None
    return tasks.gap_spread(local, bounds.centralised, site.manifest.class_counts, strategy.features)
