"""Real sites with hardly any images take part like the others; what they lack costs nobody else anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

IMAGES = {"one": (range(1), 1), "class": (range(1), 4), "rest": (range(10), 6)}


@pytest.mark.usefixtures("no_report")
def test_a_site_of_one_image_and_one_of_one_class_take_part(
    fake_grid: Any,
    settings: Callable[..., Any],
    site_folder: Callable[..., str],
    site_policy: Callable[..., str],
    tmp_path: Path,
) -> None:
    nodes = {
        node: {
            "data-path": site_folder(name, digits, count),
            "state-dir": str(tmp_path / "states" / name),
            "policy": site_policy(name),
            "site-name": name,
        }
        for node, (name, (digits, count)) in enumerate(IMAGES.items())
    }
    results = fake_grid(settings(clients=3, **{"min-clients": 3}), nodes).run_app()
    assert results.refused == []
    assert results.participants == sorted(IMAGES)
    assert {c.site: c.images for c in results.certificates}["one"] == 1
    assert all(c.verified for c in results.certificates)
    for name in IMAGES:
        assert (tmp_path / "states" / name / "state" / "personal" / "denoiser.json").is_file()
        assert (tmp_path / "states" / name / "samples" / "pfdm.npz").is_file()
