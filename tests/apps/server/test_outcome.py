"""What results say of a run beside its scores."""

from __future__ import annotations

import pytest

from fedpdiff.config import RunConfig
from server_app.outcome import sampling_evaluations


@pytest.mark.parametrize(
    ("method", "scale", "times"),
    [("pfdm", 1.0, 7), ("pfdm", 1.5, 12), ("fedavg", 1.0, 7), ("fedavg", 1.5, 14)],
)
def test_guidance_asks_networks_of_clean_images_twice(method: str, scale: float, times: int) -> None:
    config = RunConfig(
        method=method, guidance_scale=scale, global_sampling_steps=2, personal_sampling_steps=5
    )
    assert sampling_evaluations(config) == times
