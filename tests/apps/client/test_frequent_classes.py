"""Frequent classes: the client hands them off where the global half knows its images of them better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
