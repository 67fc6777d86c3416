"""A run that fails because too few clients are left says who took part, who was refused, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedpdiff.errors import RunError
from fedpdiff.report.page import write_failure
from tests.refusals import spoiled as bad

MARKUP = "<script>alert(1)</script>\n2026-01-01 INFO : client-1 \x1b[32mis fine\u202e"
PLAIN = r"DataError: <script>alert(1)</script>; 2026-01-01 INFO : client-1 \x1b[32mis fine\u202e"


def test_a_failed_run_says_who_and_why(
    fake_grid: Any, settings: Callable[..., Any], simulated_nodes: Any, tmp_path: Path, caplog: Any
) -> None:
    grid = fake_grid(settings(clients=3, partitioner="iid", **{"min-clients": 3}), simulated_nodes(3))
    grid.behaviour[101] = lambda message, reply: bad.refusing(MARKUP)(reply)
    with pytest.raises(RunError, match="2 clients are left, but min-clients = 3") as error:
        grid.run_app()
    run = tmp_path / "run"
    assert PLAIN in str(error.value) and PLAIN in (run / "error.txt").read_text()
    listed = json.loads((run / "participants.json").read_text())
    assert listed["participants"] == ["client-0", "client-2"]
    assert listed["refused"] == [{"site": "node 101", "phase": "upload", "reason": PLAIN}]
    page = (run / "report.html").read_text()
    assert "This run did not finish." in page
    assert "Took part: client-0, client-2." in page
    assert "<strong>node 101</strong>, in upload: DataError: &lt;script&gt;" in page
    assert "<script" not in page
    assert f"node 101 is left out of upload: {PLAIN}" in caplog.messages
    for text in (page, (run / "error.txt").read_text(), *caplog.messages):
        assert not {c for c in text if not c.isprintable()} - {"\n"}
    assert not (run / "results.json").exists()


def test_a_run_that_failed_before_anybody_came(tmp_path: Path) -> None:
    (tmp_path / "error.txt").write_text("ConfigError: network = 'x.json'\n")
    page = write_failure(tmp_path).read_text()
    assert "ConfigError: network = &#39;x.json&#39;" in page
    assert "Took part" not in page and "Nobody was left out." in page


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "error.txt").write_text("RunError: x\n")
    (tmp_path / "participants.json").write_text("{")
    with pytest.raises(RunError, match=r"participants\.json is damaged"):
        write_failure(tmp_path)
