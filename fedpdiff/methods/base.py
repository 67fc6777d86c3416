"""What a method that averages weights over rounds decides; everything else is the same for all of them.

One round: the server sends weights, each client trains them on its own images for its share of the gradient
steps and sends its update back, the server averages the updates by the clients' numbers of images (Flower's
FedAvg). A method changes one or two of the hooks below. The protocol that all share (docs/methods.md): the
same network, schedule, class balance and number of gradient steps per client; a fresh optimiser for each
client and round, at the learning rate that this step of the whole training has; and one moving average, of
the aggregates, which sampling uses.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from diffusers import UNet2DModel

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.batches import Batches
from fedpdiff.diffusion.chain import Chain
from fedpdiff.diffusion.training import (
    Penalty,
    Progress,
    TrainingSettings,
    adamw,
    train_denoiser,
)
from fedpdiff.methods.parts import PARTS, Parts, part_of
from fedpdiff.methods.weights import Arrays
from fedpdiff.privacy.gaussian_noise import NoiseSource
from fedpdiff.types import LabelledImages

NO_GUARANTEE = "none: no formal guarantee for images whose weights are sent"


@dataclass(frozen=True)
class PrivateTraining:
    """What training with differential privacy needs besides.

    Attributes
    ----------
    images
        The client's images.
    label_dropout, hidden_label
        With which probability a label is hidden, and the label that stands for none.
    noise
        Draws who takes part in a step, and the noise.
    ledger
        Folder of the client's ledger of such steps.
    limits
        (epsilon, delta) of all such steps on these images together.
    """

    images: LabelledImages
    label_dropout: float
    hidden_label: int
    noise: NoiseSource
    ledger: Path
    limits: tuple[float, float]


@dataclass(frozen=True)
class LocalRound:
    """One client's training in one round.

    Attributes
    ----------
    network
        Holds what was received, and what this client keeps; trained in place.
    chain
        The whole chain of clean images.
    batches
        The client's images.
    settings
        Of the training of all rounds together, without a moving average.
    span
        The steps of 1 .. ``settings.steps`` that belong to this round.
    generator
        Draws images, levels and noise.
    parts
        Parts of the network that this client trains in this round.
    progress
        Called with (step, steps, loss).
    private
        What a method needs that draws its own batches; None where no method does.
    """

    network: UNet2DModel
    chain: Chain
    batches: Batches
    settings: TrainingSettings
    span: range
    generator: torch.Generator
    parts: Parts = PARTS
    progress: Progress | None = None
    private: PrivateTraining | None = None


class RoundMethod(ABC):
    """A method of federated training; as it stands, federated averaging of the whole network.

    Parameters
    ----------
    config
        The run's settings.

    Attributes
    ----------
    name
        Value of the setting ``method``.
    title
        How tables and pages call it.
    source
        What is published, where, and what is ours.
    server_sees
        What leaves the clients, in words.
    privacy
        The guarantee, with its unit and adjacency, in words.
    clients_train
        Whether clients train anything at all.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    server_sees: ClassVar[str] = "every client's weights after each round, and its number of images per class"
    privacy: ClassVar[str] = NO_GUARANTEE
    clients_train: ClassVar[bool] = True

    @property
    def column(self) -> str:
        """Name of its samples and scores in results: its own, unless it is a baseline of every run."""
        return self.name

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    @property
    def guarantee(self) -> str:
        """The guarantee of this run, in words."""
        return self.privacy

    # -- on both sides ------------------------------------------------------------------------------------

    @property
    def rounds(self) -> int:
        """Number of rounds, at least 1."""
        return min(self.config.rounds, self.steps)

    @property
    def steps(self) -> int:
        """Gradient steps of one client in all rounds together."""
        return self.config.personal_steps

    def span(self, number: int) -> range:
        """Return the steps of 1 .. ``steps`` that belong to round ``number`` (from 1)."""
        return range((number - 1) * self.steps // self.rounds + 1, number * self.steps // self.rounds + 1)

    @property
    def exchanged(self) -> Parts:
        """The parts of the network that travel; the others are each client's own."""
        return PARTS

    def encode(self, weights: Arrays) -> Arrays:
        """Return weights as they travel, in either direction."""
        return weights

    def decode(self, arrays: Arrays) -> Arrays:
        """Return the weights that :meth:`encode` was given, as far as it keeps them.

        Raises
        ------
        DataError
            When they are not so encoded.
        """
        return arrays

    @property
    def pretraining_steps(self) -> int:
        """Gradient steps of a model of each client's own, which it uploads before the first round."""
        return 0

    # -- at a client --------------------------------------------------------------------------------------

    def fit(self, local: LocalRound) -> float:
        """Train one client's network for one round and return the mean loss."""
        losses: list[float] = []

        def progress(step: int, steps: int, loss: float | None) -> None:
            losses.append(loss or 0.0)
            if local.progress is not None:
                local.progress(step, steps, loss)

        for name, parameter in local.network.named_parameters():
            parameter.requires_grad_(part_of(name) in local.parts)
        train_denoiser(
            local.network,
            local.chain,
            local.batches,
            local.settings,
            local.generator,
            progress,
            span=local.span,
            penalty=self.penalty(local.network),
            make_optimizer=self.make_optimizer,
        )
        return float(np.mean(losses))

    @staticmethod
    def make_optimizer(parameters: Iterable[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
        """Return a client's optimiser, made afresh in every round, at this learning rate."""
        return adamw(parameters, rate)

    def penalty(self, received: UNet2DModel) -> Penalty | None:
        """Return what is added to every step's loss, given the network as it was received."""
        return None

    # -- at the server ------------------------------------------------------------------------------------

    def assign(self, clients: int, generator: np.random.Generator) -> list[Parts]:
        """Return which parts each of the round's clients trains and sends back."""
        return [self.exchanged] * clients

    @property
    def edges(self) -> int:
        """Number of edge servers, each with a network of its own; 1: the server itself."""
        return 1

    def choose_edges(
        self, attached: Sequence[np.ndarray], counts: Sequence[np.ndarray], generator: np.random.Generator
    ) -> list[int]:
        """Return at which edge server each of the round's clients trains.

        Parameters
        ----------
        attached
            Images per class of the clients that trained at each edge server since these last averaged their
            networks, int64, shape (K,).
        counts
            Images per class of each client, int64, shape (K,).
        """
        return [0] * len(counts)

    def edges_meet(self, number: int) -> bool:
        """Return whether edge servers average their networks after this round, which is not the last.

        After the last, their moving averages are averaged in any case.
        """
        return True

    def edge_shares(self, attached: Sequence[np.ndarray], counts: Sequence[np.ndarray]) -> list[float]:
        """Return each edge server's weight in such an average, at least 0, not all 0.

        Arguments as in :meth:`choose_edges`; the clients are those of the round before.
        """
        return [float(edge.sum()) for edge in attached]

    @property
    def correction_steps(self) -> int:
        """Gradient steps of one correction, on images that the server draws from the uploaded models."""
        return 0

    def corrects(self, losses: Sequence[float]) -> bool:
        """Return whether the server corrects the aggregate; ``losses`` on its images after each round."""
        return False
