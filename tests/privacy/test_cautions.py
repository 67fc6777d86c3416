"""Cautions about a budget: what is known to be wrong, and what only the owner of the data can know."""

from __future__ import annotations

from typing import Any

import pytest

from fedpdiff.config import RunConfig
from fedpdiff.privacy.cautions import ball_cautions, budget_cautions, delta_limit, run_cautions


def subjects(**settings: Any) -> list[tuple[str, bool]]:
    config = RunConfig.parse({key.replace("_", "-"): value for key, value in settings.items()})
    return [(caution.subject, caution.certain) for caution in ball_cautions(config)]


@pytest.mark.parametrize(("epsilon", "empty"), [(0.5, False), (20.0, False), (20.001, True), (500.0, True)])
def test_an_empty_guarantee(epsilon: float, empty: bool) -> None:
    found = budget_cautions(epsilon, 1e-5, 100)
    assert [caution.subject for caution in found] == (["epsilon"] if empty else [])
    assert all(f"epsilon {epsilon:g} for one image" in str(caution) for caution in found)


@pytest.mark.parametrize(
    ("delta", "images", "large"),
    [
        (1e-5, 10_000, False),  # exactly 1 / (10 n)
        (1e-5, 10_001, True),
        (1e-6, 60_000, False),
        (1e-5, 60_000, True),
        (1e-4, None, False),
        (2e-4, None, True),
    ],
)
def test_a_delta_too_large_for_the_images(delta: float, images: int | None, large: bool) -> None:
    found = budget_cautions(1.0, delta, images)
    assert [caution.subject for caution in found] == (["delta"] if large else [])


def test_the_delta_it_proposes_is_accepted_and_nearly_the_largest() -> None:
    for images in (1, 3, 7, 503, 15_000, 60_000, 10**7):
        limit = delta_limit(images)
        assert budget_cautions(1.0, limit, images) == []
        assert limit > 0.9 / (10 * images)
        assert f"at most {limit:g}" in str(budget_cautions(1.0, 0.9, images)[0])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),  # the embedded digits are published
        ({"centre": "none", "clip_rule": "none", "data": "someone/images"}, []),
        ({"centre": "none", "clip_rule": "fixed", "data": "someone/images"}, []),  # the paper's constant
        ({"centre": "none", "clip_rule": "fixed", "clip": 7.3, "data": "someone/images"}, [("ball", False)]),
        ({"clip_rule": "fixed", "clip": 7.3}, [("ball", False)]),
        ({"data": "someone/images"}, [("ball", False)]),
        ({"data": "/data/site"}, [("ball", False)]),
        ({"data": "/data/site", "clip_rule": "fixed", "clip": 7.3}, [("ball", False), ("ball", False)]),
    ],
)
def test_where_the_ball_comes_from(settings: dict[str, Any], expected: list[tuple[str, bool]]) -> None:
    assert subjects(**settings) == expected


def test_the_caution_names_settings_and_data() -> None:
    config = RunConfig.parse({"data": "/data/site", "centre": "none"})
    (caution,) = ball_cautions(config)
    assert str(caution).startswith('Only you can know: 20 % of data = "/data/site" (read from outside)')
    assert "for clip-rule." in caution.text


def test_all_cautions_of_a_run() -> None:
    config = RunConfig.parse({"release-noise": "seeded", "data": "/data/site", "delta": 1e-3})
    found = [caution.subject for caution in run_cautions(config, 49.6, 500)]
    assert found == ["noise", "epsilon", "delta", "ball"]
    assert [c.subject for c in run_cautions(RunConfig(), 5.0, 500)] == []
