"""What must be true after every fault: each image was noised once, no upload and no model is lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path

from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.federation.verification import verify_below
from simulations.faults.machines import Machines, Site

Shards = dict[str, str]


def shards_of(machines: Machines) -> Shards:
    """Return the SHA-256 of every shard that the server has accepted so far, by path."""
    return {
        str(path.relative_to(machines.run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in machines.run.glob("server/spool/*/shard-*.npz")
    }


def check_sites(sites: list[Site]) -> list[str]:
    """Return what is wrong with what the sites keep, in words."""
    problems = []
    for site in sites:
        images, noisings, batches, releases = _ledger(site)
        if images != noisings or batches != 1 or releases != 1:
            problems.append(
                f"{site.name}: {noisings} noisings of {images} images in {batches} batches, {releases} "
                "releases"
            )
        try:
            Denoiser.from_pretrained(site.state / "state" / "personal")
        except Exception as error:
            problems.append(f"{site.name}: no personal model ({error})")
    return problems


def _ledger(site: Site) -> tuple[int, int, int, int]:
    path = site.state / "state" / "release" / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as ledger:
        counts = [
            int(ledger.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
            for table in ("images", "noisings", "batches", "releases")
        ]
    return counts[0], counts[1], counts[2], counts[3]


def check_uploads(machines: Machines, sites: list[Site], before: Shards) -> list[str]:
    """Return what is wrong with the pooled uploads, in words; ``before``: shards accepted before faults."""
    problems = [
        f"the accepted {name} was lost or has changed"
        for name, sha256 in before.items()
        if shards_of(machines).get(name) != sha256
    ]
    for verdict in verify_below(machines.run / "server" / "spool"):
        problems += [f"{verdict.folder.name}: {problem}" for problem in verdict.problems]
    for site in sites:
        released = site.state / "state" / "release" / "outbox" / "certificate.json"
        pooled = machines.run / "server" / "spool" / site.name / "certificate.json"
        if _read(released) != _read(pooled):
            problems.append(f"{site.name}: the pooled upload is not the release that the site keeps")
    return problems


def _read(path: Path) -> object:
    return json.loads(path.read_text("utf-8")) if path.exists() else None
