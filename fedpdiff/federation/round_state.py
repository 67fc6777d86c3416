"""What client and server keep between rounds, so that a run that ended early goes on after the last one.

Each is one file, replaced as a whole after each round: a crash leaves this round or the one before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedpdiff.errors import DataError
from fedpdiff.methods.weights import Arrays, RunningAverage, check_weights
from fedpdiff.types import LabelledImages


@dataclass
class RoundState:
    """What a client keeps: its last reply, and the parts of the network that are its own.

    Attributes
    ----------
    round
        The last round that was trained; -1: none.
    asked
        Digest of what was asked for in it.
    reply
        What was sent.
    own
        The client's own parts of the network.
    average
        Their moving average.
    """

    round: int = -1
    asked: str = ""
    reply: Arrays = field(default_factory=dict)
    own: Arrays = field(default_factory=dict)
    average: RunningAverage = field(default_factory=RunningAverage)

    def save(self, path: Path) -> None:
        """Write the state."""
        tensors = _under("reply", self.reply) | _under("own", self.own)
        tensors |= _under("average", self.average.weights)
        metadata = {"round": str(self.round), "asked": self.asked, "total": repr(self.average.total)}
        _write(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path) -> RoundState:
        """Read the state; a fresh one where there is none.

        Raises
        ------
        DataError
            When the file is damaged.
        """
        if not path.exists():
            return cls()
        try:
            tensors, metadata = _read(path)
            average = RunningAverage(float(metadata["total"]), _from(tensors, "average"))
            reply, own = _from(tensors, "reply"), _from(tensors, "own")
            return cls(int(metadata["round"]), metadata["asked"], reply, own, average)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(
                f"{path} is damaged ({type(error).__name__}); delete it and start the run again"
            ) from error


@dataclass
class Edge:
    """One server that averages clients' weights; most methods have one, some have edge servers.

    Attributes
    ----------
    weights
        What the next round of its clients starts from.
    average
        Their moving average.
    attached
        Images per class of the clients that trained there since the servers last averaged their networks,
        int64, shape (K,); a client counts once for each round.
    """

    weights: Arrays
    average: RunningAverage
    attached: np.ndarray

    @classmethod
    def first(cls, weights: Arrays, classes: int) -> Edge:
        """Return a server before the first round, with the weights that everybody starts from."""
        return cls(dict(weights), RunningAverage(), np.zeros(classes, np.int64))


@dataclass
class ServerState:
    """What the server keeps.

    Attributes
    ----------
    edges
        Its network; or those of the edge servers.
    round
        The last round that is finished; 0: the clients' own models; -1: none.
    gradient_steps
        Taken by the server so far.
    auxiliary
        Images drawn from the clients' own models; None: none.
    losses
        On them, after each round.
    counted
        Of each site by name, in the finished rounds: bytes up, bytes down, gradient steps.
    seconds
        Wall time of the finished rounds, in all attempts.
    between_servers
        Bytes sent between edge servers and the central one, both ways.
    """

    edges: list[Edge]
    round: int = -1
    gradient_steps: int = 0
    auxiliary: LabelledImages | None = None
    losses: list[float] = field(default_factory=list)
    counted: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0
    between_servers: int = 0

    def save(self, path: Path) -> None:
        """Write the state."""
        tensors: Arrays = {}
        for number, edge in enumerate(self.edges):
            tensors |= _under(f"{number}/weights", edge.weights)
            tensors |= _under(f"{number}/average", edge.average.weights)
            tensors[f"{number}/attached"] = edge.attached
        if self.auxiliary is not None:
            tensors["auxiliary/images"] = self.auxiliary.images.numpy()
            tensors["auxiliary/labels"] = self.auxiliary.labels.numpy()
        totals = [edge.average.total for edge in self.edges]
        plain = {name: getattr(self, name) for name in _PLAIN} | {"totals": totals}
        _write(path, tensors, {"state": json.dumps(plain)})

    @classmethod
    def load(cls, path: Path, first: ServerState) -> ServerState:
        """Read the state; ``first``, that of before the first round, where there is none.

        Raises
        ------
        DataError
            When the file is damaged or of another network than ``first``.
        """
        if not path.exists():
            return first
        try:
            tensors, metadata = _read(path)
            plain: dict[str, Any] = json.loads(metadata["state"])
            totals = plain.pop("totals")
            edges = [_edge(tensors, number, float(total)) for number, total in enumerate(totals)]
            for edge, fresh in zip(edges, first.edges, strict=True):
                check_weights(edge.weights, fresh.weights)
                check_weights({"attached": edge.attached}, {"attached": fresh.attached})
            drawn, auxiliary = _from(tensors, "auxiliary"), None
            if drawn:
                images, labels = (torch.from_numpy(drawn[name]) for name in ("images", "labels"))
                auxiliary = LabelledImages(images, labels)
            return cls(edges, auxiliary=auxiliary, **{name: plain[name] for name in _PLAIN})
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, DataError) as error:
            raise DataError(
                f"{path} does not hold the rounds of this run ({error}); delete it to begin with the first "
                "round again"
            ) from error


_PLAIN = ("round", "gradient_steps", "losses", "counted", "seconds", "between_servers")


def _edge(tensors: Arrays, number: int, total: float) -> Edge:
    average = RunningAverage(total, _from(tensors, f"{number}/average"))
    return Edge(_from(tensors, f"{number}/weights"), average, tensors[f"{number}/attached"])


def _under(kind: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {f"{kind}/{name}": array for name, array in arrays.items()}


def _from(tensors: Arrays, kind: str) -> Arrays:
    return {
        name.removeprefix(f"{kind}/"): array for name, array in tensors.items() if name.startswith(f"{kind}/")
    }


def _write(path: Path, tensors: Arrays, metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    except BaseException:  # a full disk needs the room
        temporary.unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[Arrays, dict[str, str]]:
    with safe_open(path, "np") as file:
        metadata = file.metadata() or {}
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
