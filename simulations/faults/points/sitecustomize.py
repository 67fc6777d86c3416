"""Lets the harness end or hold a real process at a named point. Python imports this file by itself at start.

It does nothing unless ``FEDPDIFF_FAULTS`` names a folder. There ``POINT`` arms a point: its text is ``kill``
or ``hold`` and how many times the point is passed before. What happened is told by ``POINT.reached``, which
holds the process id; a held process goes on when there is ``POINT.go``.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = os.environ.get("FEDPDIFF_FAULTS", "")
SHARD_BYTES = 64 * 32  # 32 images of 8x8, so that a small upload has several shards
MANY_OBJECTS = 20  # a message with a network's weights has more, every other one has fewer


def point(name: str) -> None:
    """Pass a point; end or wait here if it is armed."""
    armed = Path(FOLDER, name)
    try:
        action, count = armed.read_text().split()
        if int(count) > 0:
            armed.write_text(f"{action} {int(count) - 1}")
            return
        armed.rename(armed.with_name(f"{name}.fired"))  # only one of several processes gets it
    except (OSError, ValueError):
        return
    Path(FOLDER, f"{name}.tmp").write_text(str(os.getpid()))
    Path(FOLDER, f"{name}.tmp").rename(Path(FOLDER, f"{name}.reached"))
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while not Path(FOLDER, f"{name}.go").exists():
        time.sleep(0.1)


def _around(owner: Any, name: str, before: str = "", after: str = "") -> None:
    real: Callable[..., Any] = getattr(owner, name)

    def passed(*args: Any, **keywords: Any) -> Any:
        if before:
            point(before)
        result = real(*args, **keywords)
        if after:
            point(after)
        return result

    setattr(owner, name, passed)


def _steps(module: ModuleType) -> None:
    module.reached = point  # type: ignore[attr-defined]


def _spool(module: Any) -> None:
    module.SHARD_BYTES = SHARD_BYTES
    _around(module.Spool, "accept", after="shard accepted")


def _client(module: Any) -> None:
    _around(module.ClientTasks, "shard", before="shard")
    _around(module.ClientTasks, "_draw", before="sampling")


def _training(module: Any) -> None:
    _around(module, "save_checkpoint", after="checkpoint")


def _supernode(module: Any) -> None:
    real = module.pull_objects

    def pull(object_ids: list[str], *args: Any, **keywords: Any) -> Any:
        if len(object_ids) > MANY_OBJECTS:
            point("download")
        return real(object_ids, *args, **keywords)

    module.pull_objects = pull


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "fedpdiff.privacy.steps": _steps,
    "fedpdiff.federation.spool": _spool,
    "fedpdiff.federation.client": _client,
    "fedpdiff.diffusion.training": _training,
    "flwr.supernode.start_client_internal": _supernode,
}


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of ``PATCHES`` as usual, and patches each once it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the usual spec with a loader that patches."""
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            _around_loader(spec.loader, PATCHES[name])
        return spec


def _around_loader(loader: Any, patch: Callable[[ModuleType], None]) -> None:
    real = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        real(module)
        patch(module)

    loader.exec_module = exec_module


if FOLDER:
    sys.meta_path.insert(0, Finder())
