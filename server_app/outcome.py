"""From a finished run to ``results.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedpdiff.data.classes import class_groups
from fedpdiff.federation.server import ServerTasks, load_samples
from fedpdiff.federation.spool import Spool
from fedpdiff.federation.verification import verify_upload
from fedpdiff.privacy.certificate_check import parse_certificate
from fedpdiff.privacy.release import NOT_PRIVATE
from fedpdiff.privacy.statement import privacy_statement
from fedpdiff.results import (
    CertificateSummary,
    ClientResults,
    GroupScores,
    Results,
    gap_closed,
    mean_gap,
)
from server_app.bounds import Bounds
from server_app.participants import Site, UploadingSite
from server_app.pfdm import PFDM
from server_app.rounds import Rounds

_LOCAL_SAME = (
    "local-only is the personal denoiser itself, sampled on the whole chain: it was trained on all levels"
)
_LOCAL_SEPARATE = (
    "local-only is a separate network on the whole chain, trained with the same number of gradient steps as "
    "the personal denoiser, which knows levels up to the hand-off only"
)


_PFDM_SEES = "one clipped, noised copy of every image, with its label, once; nothing that was trained on them"


def build_results(strategy: PFDM | Rounds, tasks: ServerTasks, bounds: Bounds) -> Results:
    """Put together what the run measured."""
    config = tasks.config
    sites = sorted(strategy.participants.sites.values(), key=_order)
    clients = [_client(index, site, strategy, tasks, bounds) for index, site in enumerate(sites)]
    spreads = [_spread(site, strategy, tasks, bounds) for site in sites]
    gaps = [gap_closed(client, spread) for client, spread in zip(clients, spreads, strict=True)]
    features = strategy.features
    of_method = _of_rounds(strategy) if isinstance(strategy, Rounds) else _of_pfdm(strategy, tasks)
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
        bytes_up=[site.spool.bytes if isinstance(site, UploadingSite) else site.bytes_up for site in sites],
        bytes_down=[site.bytes_down for site in sites],
        client_steps=[site.gradient_steps for site in sites],
        sampling_evaluations=config.global_sampling_steps + config.personal_sampling_steps,
        seconds=dict(strategy.seconds),
        participants=[site.name for site in sites],
        refused=strategy.participants.refused,
        **of_method,
    )


def _of_pfdm(strategy: PFDM, tasks: ServerTasks) -> dict[str, Any]:
    config, mechanism = tasks.config, tasks.agreement.mechanism
    statement = privacy_statement(
        mechanism.alpha_bar, mechanism.clip, mechanism.delta, mechanism.t0, mechanism.schedule
    )
    return {
        "server_sees": _PFDM_SEES,
        "server_steps": config.global_steps,
        "privacy": _stamp(config.release_noise) | statement,
        "certificates": [_certificate(folder) for folder in tasks.folder.spools()],
        "notes": [
            _LOCAL_SEPARATE if config.personal_levels == "below-t0" else _LOCAL_SAME,
            # Tables and page say themselves what a large epsilon and seeded noise mean.
            *(str(caution) for caution in strategy.cautions if caution.subject in ("delta", "ball")),
        ],
    }


def _of_rounds(strategy: Rounds) -> dict[str, Any]:
    method = strategy.method
    return {
        "method_title": method.title,
        "server_sees": method.server_sees,
        "server_steps": strategy.server.gradient_steps,
        "privacy": {"epsilon": None, "guarantee": method.guarantee},
        "notes": [f"{method.title}: {method.source}"],
    }


def _stamp(noise: str) -> dict[str, str]:
    return {"not_private": NOT_PRIVATE} if noise == "seeded" else {}


def _certificate(folder: Path) -> CertificateSummary:
    """Sum up what a pooled upload is certified to guarantee, verified once more as it lies on the disk."""
    manifest = Spool.open(folder).manifest
    if not manifest.certificate:
        return CertificateSummary(site=manifest.site, images=manifest.images, verified=False)
    stated = parse_certificate(manifest.certificate)
    persons = stated["persons"] or {"most_images": None, "epsilon": None}
    return CertificateSummary(
        site=manifest.site,
        images=stated["n_images"],
        epsilon=stated["epsilon"],
        delta=stated["delta"],
        noisings=stated["composition"]["noisings_per_image"],
        epsilon_total=stated["composition"]["epsilon_total"],
        most_images_of_a_person=persons["most_images"],
        epsilon_of_that_person=persons["epsilon"],
        sha256=stated["sha256"],
        verified=not verify_upload(folder),
    )


def _order(site: Site) -> tuple[int, str]:
    number = site.manifest.number
    return (-1 if number is None else number, site.name)


def _client(
    index: int, site: Site, strategy: PFDM | Rounds, tasks: ServerTasks, bounds: Bounds
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
            "classes": {"majority": list(majority), "minority": list(minority)},
            "groups": groups,
        }
    )


def _spread(site: Site, strategy: PFDM | Rounds, tasks: ServerTasks, bounds: Bounds) -> float | None:
    number = site.manifest.number
    if bounds.centralised is None or strategy.features is None or number is None:
        return None
    local = load_samples(tasks.folder.client(number), "local")
    if local is None:
        return None
    return tasks.gap_spread(local, bounds.centralised, site.manifest.class_counts, strategy.features)
