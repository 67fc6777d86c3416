"""What the report reads from a run folder; every part but results.json may be missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedpdiff.attack_results import AttackResults
from fedpdiff.deletions import Deletion, deletions
from fedpdiff.errors import RunError
from fedpdiff.events import read_events
from fedpdiff.results import Method, Results

_BASELINES: dict[str, Method] = {"local-only": "local"}


@dataclass(frozen=True)
class RunFiles:
    """The files of one run.

    Parameters
    ----------
    folder
        The run folder.
    results
        ``results.json``.
    config, environment
        ``config.json`` and ``environment.json``; empty when missing.
    events
        All progress events, ordered by time; empty when missing.
    attacks
        ``attacks.json``; ``None`` when the run was not attacked.
    deleted
        Uploads that the server has deleted since.
    """

    folder: Path
    results: Results
    config: dict[str, Any]
    environment: dict[str, Any]
    events: list[dict[str, Any]]
    attacks: AttackResults | None
    deleted: list[Deletion]

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
        """Read a run folder; raises :class:`RunError` without results.json or when a file is damaged."""
        folder = Path(folder)
        return cls(
            folder=folder,
            results=Results.read(folder),
            config=read_object(folder / "config.json"),
            environment=read_object(folder / "environment.json"),
            events=read_events(folder / "events"),
            attacks=AttackResults.read(folder),
            deleted=deletions(folder),
        )

    def samples(self, client: int, name: str) -> dict[int, np.ndarray]:
        """Return a client's images by class, uint8 of shape (N, C, H, W); empty when there are none."""
        path = self.folder / f"client-{client}" / "samples" / f"{name}.npz"
        if not path.is_file():
            return {}
        try:
            with np.load(path, allow_pickle=False) as stored:
                images, labels = stored["images"], stored["labels"]
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{path} is damaged ({type(error).__name__}); delete it to report without it"
            ) from error
        return {int(label): images[labels == label] for label in np.unique(labels)}


def own_column(results: Results) -> Method:
    """Return the name under which a run's scores and samples are those of its method."""
    return _BASELINES.get(results.method, results.method)


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is no JSON; delete it to report without it") from error
    return value if isinstance(value, dict) else {}
