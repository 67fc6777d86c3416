"""Known ways in which a run fails: what its files show, and what to change.

The signs are those that PFDM's first version names (arXiv 2504.00952v1), and what separates their causes:
rare classes no better than alone, blurred samples, attacks that succeed. One is ours: few images learnt by
heart.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fedpdiff.attack_results import AttackResults
from fedpdiff.report.run_files import RunFiles, own_column
from fedpdiff.report.wording import number, percent
from fedpdiff.results import Group, Method, Results

BLURRED = 0.75
"""Sharpness, as a share of that of real images, below which samples count as blurred."""
_UNRECOGNISED = 0.5
_CLEARLY = 0.95
_BY_HEART = 0.5
"""Coverage below which few images count as learnt by heart: at most 0.4 with 3 to 5, 0.5 and more with 8."""


@dataclass(frozen=True)
class Symptoms:
    """What the signs are read from; None where a run has no such number.

    Attributes
    ----------
    method
        The method that ran.
    minority, local, oracle
        Frechet distances of rare classes, mean over clients: the method's, local-only's, the oracle
        hand-off's.
    accuracy
        Share of the method's rare-class samples that are recognised as their class, 0 .. 1.
    coverage
        Share of real images of rare classes that lie near a sample (recall), over that of frequent classes;
        None as well where classes were not drawn equally often or always with their label.
    sharpness
        Of the method's samples, as a share of that of real images.
    attacks
        What the attacks found, where the run was attacked and every control was defeated.
    """

    method: str
    minority: float | None = None
    local: float | None = None
    oracle: float | None = None
    accuracy: float | None = None
    coverage: float | None = None
    sharpness: float | None = None
    attacks: AttackResults | None = None


def symptoms(run: RunFiles) -> Symptoms:
    """Read the symptoms of one run from its folder."""
    results, column = run.results, own_column(run.results)
    attacks = run.attacks
    return Symptoms(
        method=results.method,
        minority=_minority(results, column, "frechet"),
        local=_minority(results, "local", "frechet"),
        oracle=_minority(results, "oracle", "frechet"),
        accuracy=_minority(results, column, "accuracy"),
        coverage=_coverage(run, column),
        sharpness=relative_sharpness(run),
        attacks=attacks if attacks and attacks.controls_work else None,
    )


def signatures(found: Symptoms) -> list[str]:
    """Say which known failures the symptoms show, and what to change; one line each."""
    return [
        *_no_gain(found),
        *_unrecognised(found),
        *_by_heart(found),
        *_blurred(found),
        *_attacked(found.attacks),
    ]


def _minority(results: Results, column: Method, metric: str) -> float | None:
    return _group(results, "minority", column, metric)


def _coverage(run: RunFiles, column: Method) -> float | None:
    drawn = run.config.get("class-balance") == 1 and not run.results.method.startswith("dpdm")
    if not drawn or not run.config.get("label-dropout"):
        return None
    rare = _group(run.results, "minority", column, "recall")
    frequent = _group(run.results, "majority", column, "recall")
    return None if rare is None or not frequent else rare / frequent


def _group(results: Results, group: Group, column: Method, metric: str) -> float | None:
    scores = [client.groups.get(group, {}).get(column) for client in results.clients]
    return _mean(getattr(score, metric) for score in scores if score is not None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _no_gain(found: Symptoms) -> list[str]:
    """Rare classes no better than alone: whose fault it is shows when real uploads are handed over."""
    if found.method != "pfdm" or found.minority is None or found.local is None:
        return []
    if found.minority < found.local:
        return []
    begin = (
        f"Rare classes are no better than what a client makes alone ({number(found.minority)} against "
        f"{number(found.local)}), "
    )
    if found.oracle is None:
        return [
            f"{begin}and a run with oracle = true would tell why: whether the global network lacks "
            "something, or t0 is too large, or the personal network too small."
        ]
    if found.oracle < _CLEARLY * found.local:
        return [
            f"{begin}but would be if the real uploads were handed over ({number(found.oracle)}): the global "
            "network lacks what they hold. Raise global-steps, or choose a larger network."
        ]
    return [
        f"{begin}and no better if the real uploads were handed over ({number(found.oracle)}), so the global "
        "network is not to blame. Either t0 is too large, so that the uploads hold too little (a larger "
        "epsilon or more images help), or the personal network is too small or undertrained to follow the "
        "hand-off (a larger network, more personal-steps, a larger label-dropout)."
    ]


def _unrecognised(found: Symptoms) -> list[str]:
    if found.accuracy is None or found.accuracy >= _UNRECOGNISED:
        return []
    return [
        f"Only {percent(found.accuracy)} of rare-class samples are recognised as their class: the network "
        "that makes them is undertrained or too small. Raise personal-steps, or choose a larger network."
    ]


def _by_heart(found: Symptoms) -> list[str]:
    if found.coverage is None or found.coverage >= _BY_HEART:
        return []
    return [
        f"Samples of rare classes cover {percent(found.coverage)} of what those of frequent ones do: the "
        "network has learnt its few images by heart. Try, on public data, to draw them a sixth as often "
        "(class-balance = 0.75 where frequent classes have a thousand times as many images, 0.5 where thirty "
        "times), with guidance-scale = 1.5 to keep the classes apart."
    ]


def _blurred(found: Symptoms) -> list[str]:
    if found.sharpness is None or found.sharpness >= BLURRED:
        return []
    begin = f"Samples are blurred: their sharpness is {percent(found.sharpness)} of that of real images. "
    if found.method != "pfdm":
        return [f"{begin}The network is undertrained: raise personal-steps."]
    return [
        f"{begin}The personal network is undertrained (raise personal-steps), or t0 is too small, so that "
        "too much of each image is made by the global network, which has seen nothing below its noise "
        "(lower epsilon)."
    ]


def _attacked(attacks: AttackResults | None) -> list[str]:
    if attacks is None:
        return []
    if attacks.exceeded:
        return [
            f"Attacks found more than the certificate allows ({'; '.join(attacks.exceeded)}): the settings "
            "do not give what it states. Compare t0, clip, centre and schedule with it (fedpdiff verify), "
            "test the release code (fedpdiff audit), and rely on no number of this run."
        ]
    rows = [
        row for row in attacks.membership if row.protected and row.works is not False and row.auc.low > 0.5
    ]
    if not rows:
        return []
    row = max(rows, key=lambda row: row.auc.value)
    cap = "" if row.auc_cap is None else f", at most {row.auc_cap:.2f} by the certificate"
    return [
        f"An attack is above chance: it tells members from others on the {row.target} with AUC "
        f"{row.auc.value:.2f} (guessing 0.50{cap}). That is what so large an epsilon allows; if it is too "
        "much, lower epsilon, which raises t0."
    ]


def relative_sharpness(run: RunFiles) -> float | None:
    """Return the sharpness of the method's samples as a share of that of real images, mean over clients.

    Sharpness is the mean absolute Laplacian, over the classes that both have, each counting alike. None
    where a client's folder has no samples.
    """
    ratios = []
    for client in run.results.clients:
        real = run.samples(client.client, "real")
        made = run.samples(client.client, own_column(run.results))
        both = sorted(set(real) & set(made))
        reference = sum(_laplacian(real[label]) for label in both)
        if reference > 0:
            ratios.append(sum(_laplacian(made[label]) for label in both) / reference)
    return _mean(ratios)


def _laplacian(images: np.ndarray) -> float:
    x = images.astype(np.float32)
    inner = x[..., 1:-1, 1:-1]
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return float(np.abs(4 * inner - around).mean())
