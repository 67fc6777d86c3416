"""What a client keeps between rounds: its last reply, and the parts of the network that are its own."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedpdiff.errors import DataError
from fedpdiff.methods.base import Arrays, RunningAverage


@dataclass
class RoundState:
    """One file, replaced as a whole after each round, so that a crash leaves this round or the one before.

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
        tensors = {f"reply/{name}": array for name, array in self.reply.items()}
        tensors |= {f"own/{name}": array for name, array in self.own.items()}
        tensors |= {f"average/{name}": array for name, array in self.average.weights.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        metadata = {"round": str(self.round), "asked": self.asked, "total": repr(self.average.total)}
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)

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
            with safe_open(path, "np") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            parts: dict[str, Arrays] = {"reply": {}, "own": {}, "average": {}}
            for name, tensor in tensors.items():
                kind, rest = name.split("/", 1)
                parts[kind][rest] = tensor
            average = RunningAverage(float(metadata["total"]), parts["average"])
            return cls(int(metadata["round"]), metadata["asked"], parts["reply"], parts["own"], average)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(
                f"{path} is damaged ({type(error).__name__}); delete it and start the run again"
            ) from error
