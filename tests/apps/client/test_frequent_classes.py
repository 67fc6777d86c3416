"""Frequent classes: the client hands them off where the global half knows its images of them better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.federation import client as tasks
from fedpdiff.types import LabelledImages
from tests.apps.client.conftest import Client


@pytest.fixture
def sampled(make_client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that samples where the personal half is so much better, and says what came of it."""
    asked: list[LabelledImages] = []

    def make(better: float, **changes: Any) -> tuple[Client, dict[str, float], list[LabelledImages]]:
        def compare(_: Denoiser, __: Denoiser, images: LabelledImages, ___: object) -> float:
            asked.append(images)
            return better

        monkeypatch.setattr(tasks, "extra_divergence", compare)
        settings = {"max_images": 1500, "samples_per_class": 40, "oracle": False} | changes
        client = make_client("simulation", **settings)
        return client, dict(client.all_actions()["sample"]["metrics"]), asked

    return make


def personal(client: Client) -> Denoiser:
    return Denoiser.from_pretrained(client.folder / "state" / "personal")


def test_it_keeps_what_it_knows_better(sampled: Callable[..., Any]) -> None:
    client, scores, asked = sampled(0.1)
    frequent = list(client.data.majority)
    assert len(frequent) == 5
    assert personal(client).config.alone == frequent
    assert set(asked[0].labels.tolist()) == set(frequent)
    assert scores["majority/pfdm/handed_off"] == 0 and scores["minority/pfdm/handed_off"] == 1
    shown = client.folder / "samples"
    with np.load(shown / "pfdm.npz") as both, np.load(shown / "global.npz") as view:
        assert set(both["labels"]) == set(range(10)) and set(view["labels"]) == set(client.data.minority)


def test_it_is_decided_again_when_asked_again(sampled: Callable[..., Any]) -> None:
    """Training that is asked for again describes the half anew, but samples and scores are not made again."""
    client, scores, asked = sampled(0.1)
    client.personalize()
    assert dict(client.sample()["metrics"]) == scores
    assert personal(client).config.alone == list(client.data.majority) and len(asked) == 2


def test_only_classes_with_many_images_and_only_some_of_them_are_compared(
    sampled: Callable[..., Any], make_client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_client("simulation", max_images=1500).data
    counts = data.train.counts(10)
    most = max(counts[label] for label in data.majority)
    enough = [label for label in data.majority if counts[label] == most]
    monkeypatch.setattr(tasks, "COMPARED", 60)
    monkeypatch.setattr(tasks, "FREQUENT", most)
    client, scores, asked = sampled(0.1)
    assert 0 < len(enough) < 5 and personal(client).config.alone == enough
    assert scores["majority/pfdm/handed_off"] == pytest.approx(1 - len(enough) / 5)
    assert len(asked[0]) == 60 and set(asked[0].labels.tolist()) == set(enough)


def test_it_hands_off_what_it_does_not(sampled: Callable[..., Any]) -> None:
    client, scores, asked = sampled(-0.1)
    assert personal(client).config.alone == [] and len(asked) == 1
    assert scores["majority/pfdm/handed_off"] == scores["minority/pfdm/handed_off"] == 1


@pytest.mark.parametrize("changes", [{"frequent_classes": "hand-off"}, {"max_images": 400}])
def test_it_is_not_asked_where_that_is_not_wanted_or_images_are_few(
    changes: dict[str, Any], sampled: Callable[..., Any]
) -> None:
    client, scores, asked = sampled(0.1, **changes)
    assert personal(client).config.alone == [] and not asked
    assert scores["majority/pfdm/handed_off"] == 1
