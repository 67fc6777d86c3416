"""Which images a membership attack has to tell apart: members and non-members of the same mix of classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fedpdiff.attacks.matching import matched_rows
from fedpdiff.types import LabelledImages

FEW = 12
_OTHERS_PER_MEMBER = 10


@dataclass(frozen=True, eq=False)
class Candidates:
    """Members and non-members in random order; the same mix of classes on both sides."""

    members: LabelledImages
    non_members: LabelledImages

    @classmethod
    def draw(
        cls, members: LabelledImages, non_members: LabelledImages, most: int, generator: np.random.Generator
    ) -> Candidates:
        """Draw equally many of each class, at most about ``most`` on each side."""
        inside, outside = matched_rows(members.labels.numpy(), non_members.labels.numpy(), generator, most)
        return cls(members.select(torch.from_numpy(inside)), non_members.select(torch.from_numpy(outside)))


def few_and_others(
    members: LabelledImages, held_out: LabelledImages, generator: np.random.Generator
) -> Candidates:
    """Draw a few members, and up to ten held-out images of the same class for each of them."""
    order = generator.permutation(len(members))
    available = torch.bincount(held_out.labels, minlength=int(members.labels.max()) + 1)
    usable = [row for row in order if available[members.labels[row]] >= _OTHERS_PER_MEMBER // 2]
    few = members.select(torch.tensor(usable[:FEW], dtype=torch.int64))
    others = []
    for label, count in zip(*np.unique(few.labels.numpy(), return_counts=True), strict=True):
        rows = generator.permutation(np.flatnonzero(held_out.labels.numpy() == label))
        others.append(rows[: _OTHERS_PER_MEMBER * count])
    return Candidates(few, held_out.select(torch.from_numpy(np.concatenate(others))))
