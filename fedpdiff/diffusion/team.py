"""Processes that train one network together: what each takes of a batch, and what they exchange."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Team:
    """The processes of one training as one of them sees them; by default it is alone.

    All of them draw the same batches, levels and noise, and each computes the gradient of its part of the
    images. The mean of these gradients is that of the whole batch, so all take the same step.

    Attributes
    ----------
    number
        Of this process, from 0.
    size
        Number of processes; divides the batch size.
    """

    number: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process reports progress and writes checkpoints."""
        return self.number == 0

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """Return this process's images of a tensor with one row per image of a batch."""
        rows = len(whole) // self.size
        return whole[self.number * rows : (self.number + 1) * rows]

    def shared(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return the network so wrapped that a backward pass leaves the mean of all processes' gradients."""
        return network if self.size == 1 else DistributedDataParallel(network)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a scalar over all processes, each of which calls this."""
        if self.size == 1:
            return value
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total / self.size


ALONE = Team()
