"""The privacy statement of a run in plain language: what it promises, how strong it is, what it omits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from fedpdiff.privacy.statement import NEIGHBOURS, UNIT
from fedpdiff.report import wording
from fedpdiff.results import Results

_SEEDED = (
    "NOT PRIVATE. The noise of this run came from a seeded generator: whoever knows the seed can remove it. "
    "The figures below describe the mechanism as if its noise were secret."
)
_NOT_PROTECTED = (
    "A person with several images: the promise is for one image, and weakens as their number grows.",
    "What holds for a client's images as a whole, such as the mean image of a class or a defect they share.",
    "Labels, the number of images of each class, image size, the site's name and the time of the upload: the "
    "server sees them as they are.",
    "A client's personal model and everything made with it: samples, distances, losses. A real client keeps "
    "them; a simulation shows them on this page.",
    "Anything sent in addition to the one upload of this run.",
)


@dataclass(frozen=True)
class PrivacyWords:
    """The privacy section; ``banner`` is set when the run gives no privacy at all."""

    banner: str | None
    promise: str
    strength: str | None
    warning: str | None
    not_protected: tuple[str, ...]
    facts: list[tuple[str, str]]


def privacy_words(results: Results, config: dict[str, Any]) -> PrivacyWords:
    """Put the privacy statement of a run into words."""
    privacy = results.privacy
    if "guarantee" in privacy:
        return _without_release(results)
    return PrivacyWords(
        banner=_SEEDED if results.release_noise == "seeded" else None,
        promise=_promise(privacy.get("epsilon"), privacy.get("delta")),
        strength=_strength(privacy.get("mu")),
        warning=_warning(privacy.get("epsilon")),
        not_protected=_NOT_PROTECTED,
        facts=_facts(privacy, config),
    )


def _without_release(results: Results) -> PrivacyWords:
    """Say what a method guarantees whose clients upload no noisy copies."""
    guarantee = results.privacy["guarantee"]
    return PrivacyWords(
        banner=None,
        promise=f"Guarantee of {results.method_title}: {guarantee}. The server sees {results.server_sees}.",
        strength=None,
        warning=None,
        not_protected=(_NOT_PROTECTED[1], "Labels, and the number of images of each class."),
        facts=[],
    )


def _promise(epsilon: float | None, delta: float | None) -> str:
    if epsilon is None:
        return "This run states no finite epsilon: its uploads are not protected."
    return (
        "Each client uploads one noisy copy of each of its images, once. Whatever anyone computes from it, "
        "replacing an image's pixels by any others, its label and the number of images unchanged, changes "
        "the probability of the outcome by at most a factor of e to the power of epsilon, with epsilon = "
        f"{wording.epsilon(epsilon)}, plus delta = {delta}. This holds even if everyone else knows all the "
        "other images. It rests on the code that makes the upload: a client that runs code shipped by the "
        "server trusts whoever ships it."
    )


def _strength(mu: float | None) -> str | None:
    if mu is None:
        return None
    # The best test between two Gaussians that are mu standard deviations apart.
    normal = NormalDist()
    balanced, caught = normal.cdf(mu / 2), normal.cdf(normal.inv_cdf(0.01) + mu)
    return (
        "Put as an attack: someone who knows that an image is one of two, as unlike each other as the "
        f"mechanism allows, can tell from the upload which of the two it was in at most {_share(balanced)} "
        f"of cases (guessing: 50 %). Allowing 1 % false alarms, at most {_share(caught)} are recognised. "
        "Real images are more alike than that worst pair, so real attacks succeed less often."
    )


def _share(value: float) -> str:
    """Write a ceiling as a percentage with one decimal, rounded up."""
    return "nearly 100 %" if value > 0.999 else f"{math.ceil(1000 * value) / 10:.1f} %"


def _warning(epsilon: float | None) -> str | None:
    if epsilon is None or epsilon <= wording.LARGE_EPSILON:
        return None
    return (
        f"An epsilon of {wording.epsilon(epsilon)} for one image is large: as a worst-case guarantee "
        "it promises very little. It suits an experiment on images that are public anyway, not images "
        "of people."
    )


def _facts(privacy: dict[str, Any], config: dict[str, Any]) -> list[tuple[str, str]]:
    steps = config.get("diffusion-steps")
    labels = {
        "epsilon": "epsilon, exact (Balle and Wang), rounded up",
        "epsilon_theorem_5_1": "epsilon by the paper's Theorem 5.1, looser",
        "delta": "delta",
        "mu": "mu, distance of the worst pair in standard deviations of the noise",
        "t0": "t0, noise steps of the upload" + (f" (of {steps})" if steps else ""),
        "alpha_bar": "alpha-bar at t0, share of signal variance kept",
        "clip": "clip norm C",
        "schedule": "noise schedule",
    }
    facts = [("unit", f"{UNIT}, {NEIGHBOURS}")]
    for key, label in labels.items():
        value = privacy.get(key)
        if value is not None:
            facts.append((label, f"{value:.6g}" if isinstance(value, float) else str(value)))
    return facts
