from __future__ import annotations

from pathlib import Path

import pytest

# The stand-ins for a running Flower task, and the connection that calls the ClientApp itself.
from tests.apps.conftest import (  # noqa: F401
    fake_grid,
    no_report,
    quick,
    settings,
    simulated_nodes,
    site_folder,
    site_policy,
)
from tests.refusals.folders import encoded, picture, write


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write(tmp_path / "site" / "cat" / f"{number}.png", encoded(picture(10 * number)))
    write(tmp_path / "site" / "dog" / "0.png", encoded(picture(50)))
    return tmp_path / "site"
