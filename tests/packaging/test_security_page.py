"""SECURITY.md and docs/docker.md: their links lead somewhere, and every private file is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedpdiff.cli import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/docker.md"])
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    for link in links:
        name, _, section = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
        anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not section or section in anchors, link


def test_every_private_file_is_named(tmp_path: Path) -> None:
    coordinator, site = tmp_path / "coordinator", tmp_path / "site"
    assert main(["coordinator", "init", str(coordinator), "--host", "localhost"]) == 0
    given = ["--coordinator", "localhost:8443", "--ca", str(coordinator / "ca.crt"), "--data", "/data"]
    assert main(["site", "init", str(site), *given]) == 0
    table = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## What must be kept secret")[2]
    ours, _, theirs = table.partition("`fedpdiff doctor")[0].partition("| site |")
    for root, named in ((coordinator, ours), (site, theirs)):
        private = {path.name for path in root.iterdir() if path.is_file() and not path.stat().st_mode & 0o077}
        assert private and private == {name for name in re.findall(r"`([\w.]+\.(?:key|secret))`", named)}
