"""On a real site every message starts a new process: one that only sends a shard must not load networks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "diffusers", "datasets", "flwr_datasets", "matplotlib"}


def heavy_after(code: str) -> set[str]:
    """Return the heavy packages that a new process has loaded after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return HEAVY & set(done.stdout.split())


def test_a_sealed_site_sends_shards_without_loading_networks() -> None:
    assert heavy_after("import client_app.app, fedpdiff.federation.sealed") == set()
    assert heavy_after("import torch") >= {"torch"}  # it would be noticed
