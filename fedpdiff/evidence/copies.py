"""Memorisation: do the images that a run generated copy its training images?

PFDM's and local-only samples are made with a client's personal model, which no guarantee covers; they are
compared with that client's training images and with held-out images of the same classes, all of them and the
client's minority classes alone, which are memorised first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fedpdiff.attack_results import Control, MemorisationRow
from fedpdiff.attacks.memorisation import LabelledRows, Memorisation, memorisation
from fedpdiff.data.classes import class_groups
from fedpdiff.evidence.artefacts import Artefacts
from fedpdiff.evidence.images import RunImages
from fedpdiff.evidence.report import Say, interval, quiet
from fedpdiff.metrics.feature_training import train_feature_network
from fedpdiff.rng import numpy_generator
from fedpdiff.types import LabelledImages

PIXELS, FEATURES = "pixels", "features"
NAMES = {"pfdm": "PFDM samples", "local": "local-only samples"}
_COPY_NOISE = 0.1  # in pixels, of the control's copies
_LEAST_P = 0.01
_LEAST_IMAGES = 10


def copies(artefacts: Artefacts, clients: int, say: Say = quiet) -> list[MemorisationRow]:
    """Compare the samples of the first clients with their training images, in pixels and in features."""
    images, found = artefacts.images, []
    say("memorisation", 0, 1)
    spaces = _spaces(artefacts)
    for client in artefacts.clients[:clients]:
        for method, samples in client.samples.items():
            for space, rows_of in spaces.items():
                for classes, chosen in _groups(client.train, images):
                    sets = (samples, client.train, images.held_out)
                    made, train, held_out = (rows_of(part.of_classes(chosen)) for part in sets)
                    purpose = ("memorisation", client.name, method, space, classes)
                    generator = numpy_generator(artefacts.config.seed, *purpose)
                    result = memorisation(made, train, held_out, generator)
                    found.append(_row(result, NAMES[method], client.name, classes, space))
    say("memorisation", 1, 1)
    return found


def _spaces(artefacts: Artefacts) -> dict[str, Callable[[LabelledImages], LabelledRows]]:
    """Return how images become rows, for each space that distances are taken in.

    The features are those of a classifier that saw the attacker's images only: one that was trained on the
    members would place them apart from the others by itself.
    """
    own, classes = artefacts.images.attacker, len(artefacts.images.class_names)
    network = train_feature_network(own, classes, artefacts.config.seed, artefacts.device)
    return {
        PIXELS: _rows,
        FEATURES: lambda images: LabelledRows.of(network.features(images), images.labels.numpy()),
    }


def significant(row: MemorisationRow, comparisons: int) -> bool:
    """Return whether samples lie closer to training images than chance explains, with 1 % error in all."""
    return row.closer_p_value <= max(_LEAST_P / comparisons, 1e-3) and row.closer_to_train.low > 0.5


def copy_control(artefacts: Artefacts) -> Control:
    """Pass off slightly noisy training images as generated ones; the comparison must notice."""
    train, generator = artefacts.clients[0].train, numpy_generator(artefacts.config.seed, "copy control")
    rows = _rows(train)
    some = rows.take(generator.permutation(len(rows))[: max(20, len(rows) // 4)])
    noisy = LabelledRows(
        some.values + _COPY_NOISE * generator.standard_normal(some.values.shape), some.labels
    )
    result = memorisation(noisy, rows, _rows(artefacts.images.held_out), generator)
    return Control(
        name="copied images",
        what=f"noisy copies of {len(noisy)} images of {artefacts.clients[0].name}, passed off as samples",
        measured=f"p = {result.closer_p_value:.3g} (closer to training images)",
        needed=f"p of at most {_LEAST_P:g}",
        passed=result.closer_p_value <= _LEAST_P,
    )


def _groups(train: LabelledImages, images: RunImages) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and classes of each group that has enough held-out images to compare with."""
    num_classes = len(images.class_names)
    held_out = images.held_out.counts(num_classes)
    for name, classes in (
        ("all", tuple(range(num_classes))),
        ("minority", class_groups(train.counts(num_classes))[1]),
    ):
        shared = [
            min(count, held_out[k]) for k, count in enumerate(train.counts(num_classes)) if k in classes
        ]
        if sum(shared) >= _LEAST_IMAGES:
            yield name, classes


def _rows(images: LabelledImages) -> LabelledRows:
    return LabelledRows.of(images.pixels().numpy(), images.labels.numpy())


def _row(found: Memorisation, target: str, client: str, classes: str, space: str) -> MemorisationRow:
    return MemorisationRow(
        target=target,
        client=client,
        classes=classes,
        space=space,
        generated=found.generated,
        references=found.references,
        closer_to_train=interval(found.closer_to_train),
        closer_p_value=found.closer_p_value,
        rank_p_value=found.rank_p_value,
        carlini=found.carlini.generated,
        carlini_held_out=found.carlini.held_out,
        nearest_ratio=found.nearest_ratio.generated,
        nearest_ratio_held_out=found.nearest_ratio.held_out,
    )
