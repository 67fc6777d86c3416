"""What attacks on a run's uploads share: uploads at several levels, the images behind them, public images.

At the run's own t0 the uploads are those that were sent, where the run kept which image is behind which. At
other levels the same images go through the same mechanism with seeded noise, in memory: that is how much
more, or less, another t0 would have given away. The lowest of them is a control that attacks must defeat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedpdiff.attacks.linear import GaussianImages, fit_gaussian
from fedpdiff.evidence.artefacts import Artefacts, Mechanism
from fedpdiff.privacy.accountant import epsilon_from_mu, round_up
from fedpdiff.privacy.gaussian_noise import SeededNoise
from fedpdiff.privacy.mechanism import decode_integers, release_integers
from fedpdiff.rng import numpy_generator
from fedpdiff.types import LabelledImages, concatenate

Origin = Literal["sent", "made for the attack"]
SENT: Origin = "sent"
MADE: Origin = "made for the attack"

_CONTROL_LEVEL = 0.3  # of T: t0 = 300 of 1000
_GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_LEARN = 0.75
_RANK = 200  # axes of the Gaussian models


@dataclass(frozen=True, eq=False)
class Uploads:
    """Uploads with the images behind them, all in the same order.

    Attributes
    ----------
    mechanism
        What made them.
    values
        y, float64, shape (n, C, H, W).
    truth, unclipped
        u, and x - c before clipping, float64, of the same shape.
    labels
        int64, shape (n,).
    owners
        int64, shape (n,): whose they are, as a position among the run's clients.
    origin
        Whether the run sent them.
    """

    mechanism: Mechanism
    values: NDArray[np.float64]
    truth: NDArray[np.float64]
    unclipped: NDArray[np.float64]
    labels: NDArray[np.int64]
    owners: NDArray[np.int64]
    origin: Origin

    @property
    def epsilon(self) -> float:
        """Exact epsilon of one such upload, rounded up."""
        return round_up(epsilon_from_mu(self.mechanism.mu, self.mechanism.delta))

    def take(self, index: NDArray[np.int64]) -> Uploads:
        """Return the uploads at these positions."""
        return replace(
            self,
            values=self.values[index],
            truth=self.truth[index],
            unclipped=self.unclipped[index],
            labels=self.labels[index],
            owners=self.owners[index],
        )


class UploadScene:
    """What the attacks on a run's uploads share.

    Parameters
    ----------
    artefacts
        The run.
    most
        Largest number of uploads that are attacked; a random choice of all clients' when there are more.
    """

    def __init__(self, artefacts: Artefacts, most: int) -> None:
        self.artefacts = artefacts
        self.mechanism = artefacts.mechanism
        self.seed = artefacts.config.seed
        self.most = most

    def generator(self, *purpose: str | int) -> np.random.Generator:
        """Return the random stream of one part of the attacks."""
        return numpy_generator(self.seed, "upload attacks", *purpose)

    @cached_property
    def control_level(self) -> int:
        """t0 = 300 of 1000, or half the run's own t0 where that is not above it."""
        level = round(_CONTROL_LEVEL * self.mechanism.schedule.steps)
        return level if level < self.mechanism.t0 else max(1, self.mechanism.t0 // 2)

    @cached_property
    def levels(self) -> list[int]:
        """The levels that are compared, the run's and the control's among them, in order."""
        grid = {round(part * self.mechanism.schedule.steps) for part in _GRID}
        return sorted({level for level in grid if level >= 1} | {self.mechanism.t0, self.control_level})

    @cached_property
    def attacker(self) -> tuple[LabelledImages, LabelledImages]:
        """The attacker's own images: most to learn from, the others to test itself on."""
        own = self.artefacts.images.attacker
        order = torch.from_numpy(self.generator("attacker").permutation(len(own)))
        learn = round(_LEARN * len(own))
        return own.select(order[:learn]), own.select(order[learn:])

    def gaussian(self, labels: NDArray[np.int64] | None = None) -> GaussianImages:
        """Fit a Gaussian model to the attacker's images, with a mean for each of these labels if given."""
        u = self.mechanism.clipped(self.attacker[0])
        few = len(u) < 4 * u[0].size
        return fit_gaussian(u, labels, min(_RANK, max(1, len(u) // 4)) if few else None)

    @cached_property
    def by_class(self) -> GaussianImages:
        """The Gaussian model with a mean for each class."""
        return self.gaussian(self.attacker[0].labels.numpy())

    def uploads(self, level: int) -> Uploads:
        """Return the uploads of the chosen images at a level: those sent, or made here."""
        mechanism, chosen = self.mechanism.at(level), self._chosen
        values, origin = chosen.sent, SENT
        if level != self.mechanism.t0 or values is None:
            pixels, noise = chosen.images.pixels().numpy(), SeededNoise(self.seed, "upload attacks", level)
            made = release_integers(pixels, mechanism.centre, mechanism.clip, mechanism.alpha_bar, noise)
            values, origin = decode_integers(made).astype(np.float64), MADE
        return Uploads(
            mechanism=mechanism,
            values=values,
            truth=mechanism.clipped(chosen.images),
            unclipped=chosen.images.pixels().double().numpy() - mechanism.centre,
            labels=chosen.images.labels.numpy(),
            owners=chosen.owners,
            origin=origin,
        )

    @cached_property
    def _chosen(self) -> _Chosen:
        """Choose the attacked images."""
        clients = self.artefacts.clients
        rows = [np.arange(len(c.train)) if c.rows is None else c.rows for c in clients]
        images = concatenate(
            client.train.select(torch.from_numpy(index)) for client, index in zip(clients, rows, strict=True)
        )
        owners = np.repeat(np.arange(len(clients)), [len(index) for index in rows])
        order = self.generator("choice").permutation(len(images))[: self.most]
        sent = None
        if all(client.rows is not None for client in clients):
            sent = torch.cat([client.uploads for client in clients]).double().numpy()[order]
        return _Chosen(images.select(torch.from_numpy(order)), owners[order], sent)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Attacked images, whose they are, and, where the run kept the order, what it sent of them."""

    images: LabelledImages
    owners: NDArray[np.int64]
    sent: NDArray[np.float64] | None
