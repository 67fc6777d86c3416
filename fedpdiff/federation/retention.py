"""Uploads that are deleted from run folders: a site withdrew, or they were kept for long enough."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedpdiff.deletions import Deletion, delete_upload, left_over
from fedpdiff.errors import ConfigError, RunError
from fedpdiff.federation.verification import verify_upload
from fedpdiff.runfolder import RunFolder, check_format

_DAY = 24 * 3600


def forget(runs: Sequence[Path], site: str) -> list[tuple[Path, Deletion]]:
    """Delete a site's uploads from run folders.

    Parameters
    ----------
    runs
        Run folders, or folders of such.
    site
        The name it took part under.

    Returns
    -------
    list of (Path, Deletion)
        The run folder and what was written down there.

    Raises
    ------
    ConfigError
        When a folder holds no run, or none of them an upload of the site.
    RunError
        When a run with such an upload is at work; nothing is deleted then.
    """
    found = [(run, spool) for run, spool in _spools(runs) if spool.name == site]
    if not found:
        raise ConfigError(f'no run in {", ".join(map(str, runs))} has an upload of "{site}"')
    if busy := [str(run) for run, _ in found if RunFolder(run).busy]:
        raise RunError(f"a run is at work in {', '.join(busy)}; stop it (flwr stop), then repeat this")
    return [(run, delete_upload(spool, site, "withdrawn", _verified(spool))) for run, spool in found]


def expire(runs: Sequence[Path], days: float) -> list[tuple[Path, Deletion]]:
    """Delete uploads that have been kept for longer than so many days; finish deletions that were cut off.

    An upload's age is that of the youngest file of it. A run that is at work keeps its uploads till its end.

    Parameters
    ----------
    runs
        Run folders, or folders of such.
    days
        At least 0.

    Raises
    ------
    ConfigError
        When a folder holds no run.
    """
    oldest = time.time() - days * _DAY
    return [
        (run, delete_upload(spool, spool.name, "expired", _verified(spool)))
        for run, spool in _spools(runs)
        if not RunFolder(run).busy and _is_due(spool, oldest)
    ]


def _is_due(spool: Path, oldest: float) -> bool:
    """Return whether an upload is older, or said to be deleted and is not yet."""
    if Deletion.read(spool) is not None:
        return bool(left_over(spool))
    return max(path.stat().st_mtime for path in spool.iterdir()) < oldest


def _verified(spool: Path) -> bool:
    return Deletion.read(spool) is None and not verify_upload(spool)


def _spools(runs: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield run folder and spool of each upload, complete or not."""
    for given in runs:
        folders = [given] if (given / "server").is_dir() else sorted(p.parent for p in given.glob("*/server"))
        if not folders:
            raise ConfigError(
                f"{given} is neither a run folder nor a folder of such (there is no server/ in it)"
            )
        for run in folders:
            check_format(run)
            spools = RunFolder(run).spool("-").parent
            yield from ((run, spool) for spool in sorted(spools.glob("*")) if any(spool.iterdir()))
