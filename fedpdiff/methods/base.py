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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from fedpdiff.errors import DataError
from fedpdiff.methods.parts import PARTS, Parts, part_of
from fedpdiff.privacy.gaussian_noise import NoiseSource
from fedpdiff.types import LabelledImages

Arrays = dict[str, np.ndarray]

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
    def correction_steps(self) -> int:
        """Gradient steps of one correction, on images that the server draws from the uploaded models."""
        return 0

    def corrects(self, losses: Sequence[float]) -> bool:
        """Return whether the server corrects the aggregate; ``losses`` on its images after each round."""
        return False


def chosen(weights: Mapping[str, np.ndarray], parts: Iterable[str]) -> Arrays:
    """Return the weights that belong to some parts of the network."""
    wanted = frozenset(parts)
    return {name: array for name, array in weights.items() if part_of(name) in wanted}


def check_weights(given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Refuse weights that are not the expected ones in name, shape and dtype, or hold what is no number.

    Raises
    ------
    DataError
        Naming the first difference.
    """
    if set(given) != set(expected):
        wrong = sorted(set(given) ^ set(expected))
        raise DataError(
            f"the weights do not fit the network of the settings: {wrong[0][:80]!r} is "
            f"{'not expected' if wrong[0] in given else 'missing'} ({len(wrong)} such names)"
        )
    for name, array in given.items():
        if array.shape != expected[name].shape or array.dtype != expected[name].dtype:
            raise DataError(
                f"the weights do not fit the network of the settings: {name[:80]!r} is {array.dtype} of "
                f"shape {array.shape}, not {expected[name].dtype} of shape {expected[name].shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"the weights hold values that are not finite, in {name[:80]!r}")


@dataclass
class RunningAverage:
    """Exponential moving average of the aggregates, as if it were taken at every gradient step.

    After rounds 1 .. r of E steps each, with d = decay^E: sum_i d^(r-i) w_i / sum_i d^(r-i). It starts
    without bias, so that after one round it is that round's aggregate.

    Attributes
    ----------
    total
        sum_i d^(r-i).
    weights
        The average.
    """

    total: float = 0.0
    weights: Arrays = field(default_factory=dict)

    def add(self, weights: Mapping[str, np.ndarray], steps: int, decay: float) -> None:
        """Take in the aggregate of a round of so many steps; ``decay`` is per gradient step, 0 .. 1."""
        before = decay**steps * self.total if self.weights else 0.0
        self.total = before + 1.0
        if not before:
            self.weights = {name: array.copy() for name, array in weights.items()}
            return
        share = np.float32(1.0 / self.total)
        for name, array in weights.items():
            self.weights[name] = self.weights[name] + share * (array - self.weights[name])
