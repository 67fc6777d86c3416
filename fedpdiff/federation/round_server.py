"""What the server computes in a run that averages weights: first weights, corrections, the moving average."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from fedpdiff.diffusion.batches import Batches
from fedpdiff.diffusion.denoiser import Denoiser, load_arrays, to_arrays
from fedpdiff.diffusion.training import train_denoiser
from fedpdiff.federation.networks import training_settings
from fedpdiff.federation.round_state import Edge, ServerState
from fedpdiff.federation.rounds import FIRST_WEIGHTS, sent_to_clients
from fedpdiff.federation.sampling import Sampler
from fedpdiff.federation.server import ServerTasks
from fedpdiff.methods.base import RoundMethod
from fedpdiff.methods.parts import PARTS, Parts
from fedpdiff.methods.weights import Arrays, check_weights, chosen
from fedpdiff.rng import numpy_generator, torch_generator
from fedpdiff.types import LabelledImages, concatenate

_JUDGED = 512  # images of the auxiliary set whose loss tells how learning goes


@dataclasses.dataclass(frozen=True)
class Share:
    """What one client does in one round: the parts that it trains, and the edge server where it does."""

    parts: Parts
    edge: int


class RoundServer:
    """The server's side of one method's rounds.

    Parameters
    ----------
    tasks
        The run's settings and folder.
    method
        The method.

    Attributes
    ----------
    state
        Where the run stands; after the last finished round of an earlier attempt, if there was one.

    Raises
    ------
    DataError
        When what an earlier attempt left is damaged.
    """

    def __init__(self, tasks: ServerTasks, method: RoundMethod) -> None:
        self.tasks = tasks
        self.method = method
        weights, classes = _weights(self._denoiser), len(tasks.class_names)
        first = ServerState([Edge.first(weights, classes) for _ in range(method.edges)])
        self.state = ServerState.load(tasks.folder.rounds, first)

    def shares(self, number: int, counts: Sequence[Sequence[int]]) -> list[Share]:
        """Return what each client of a round does, given their images per class."""
        seed = self.tasks.config.seed
        parts: list[Parts] = [PARTS] * len(counts)  # the clients' own models, in round 0
        if number:
            parts = self.method.assign(len(counts), numpy_generator(seed, "server", "roles", number))
        attached = [edge.attached for edge in self.state.edges]
        generator = numpy_generator(seed, "server", "edges", number)
        edges = self.method.choose_edges(attached, [np.array(count) for count in counts], generator)
        return [Share(part, edge) for part, edge in zip(parts, edges, strict=True)]

    def outgoing(self, number: int, edge: int) -> Arrays:
        """Return what travels to an edge server's clients at the beginning of a round, as it travels."""
        weights = self.state.edges[edge].weights
        return self.method.encode(chosen(weights, sent_to_clients(self.method.exchanged, number)))

    def incoming(self, number: int, parts: Parts, arrays: Arrays) -> Arrays:
        """Return a client's update as weights.

        Raises
        ------
        DataError
            When it is not exactly the parts that the client was asked for, of this network, all finite.
        """
        weights = self.method.decode(arrays)
        asked = parts & self.method.exchanged if number else PARTS
        check_weights(weights, chosen(self.state.edges[0].weights, asked))
        return weights

    @property
    def averaged(self) -> Arrays:
        """The moving average, which sampling uses; of everybody once the last round is finished."""
        return self.state.edges[0].average.weights

    def final(self) -> Arrays:
        """Return what the clients sample with, as it travels."""
        return self.method.encode(self.averaged)

    def take(self, number: int, edge: Edge, aggregate: Arrays, counts: Sequence[Sequence[int]]) -> None:
        """Make a round's aggregate an edge server's next weights, corrected where the method says so.

        ``counts``: images per class of the clients whose updates are in it; without any, nothing changes.
        """
        edge.weights = edge.weights | aggregate
        edge.attached = sum(map(np.array, counts), edge.attached)
        if self.state.auxiliary is not None:
            self.state.losses.append(self._loss(edge.weights, self.state.auxiliary))
            if self.method.correction_steps and self.method.corrects(self.state.losses):
                self._correct(number, edge, self.state.auxiliary)

    def draw_auxiliary(self, models: list[Arrays], class_counts: list[list[int]]) -> None:
        """Draw images from the clients' own models: of each its share, with its own mix of classes."""
        total = sum(map(sum, class_counts))
        parts = []
        with self.tasks.events.phase("auxiliary images", len(models)) as progress:
            for number, (model, counts) in enumerate(zip(models, class_counts, strict=True)):
                wanted = [round(self.tasks.config.auxiliary_images * count / total) for count in counts]
                parts.append(self._draw(number, model, wanted))
                progress(number + 1, len(models))
        self.state.auxiliary = concatenate(parts)

    def edges_meet(self, number: int) -> bool:
        """Return whether edge servers average their networks after this round; not after the last."""
        return self.method.edges > 1 and number < self.method.rounds and self.method.edges_meet(number)

    def edge_shares(self, counts: Sequence[Sequence[int]]) -> list[float]:
        """Return each edge server's weight in an average of them all; ``counts`` as in :meth:`shares`."""
        attached = [edge.attached for edge in self.state.edges]
        return self.method.edge_shares(attached, [np.array(count) for count in counts])

    def meet(self, mean: Arrays) -> None:
        """Give every edge server the average of their networks."""
        for edge in self.state.edges:
            edge.weights, edge.attached = dict(mean), np.zeros_like(edge.attached)
        self._count_meeting(mean)

    def meet_at_last(self, mean: Arrays) -> None:
        """Give every edge server the average of their moving averages, which sampling uses."""
        for edge in self.state.edges:
            edge.average.weights = dict(mean)
        self._count_meeting(mean)

    def _count_meeting(self, mean: Arrays) -> None:
        there_and_back = 2 * sum(array.nbytes for array in mean.values())
        self.state.between_servers += there_and_back * len(self.state.edges)

    def add_to_average(self, number: int) -> None:
        """Take what every edge server has after a round into its moving average."""
        for edge in self.state.edges:
            exchanged = chosen(edge.weights, self.method.exchanged)
            edge.average.add(exchanged, len(self.method.span(number)), self.tasks.config.ema_decay)

    def finish_round(self, number: int) -> None:
        """Write where the run stands to the run folder: another attempt goes on after this round."""
        self.state.round = number
        self.state.save(self.tasks.folder.rounds)

    def save(self) -> None:
        """Write the network that sampling uses to the run folder, where there is one for everybody."""
        load_arrays(self._denoiser.network, self.state.edges[0].weights | self.averaged)
        self._denoiser.network.eval()
        self._denoiser.save_pretrained(self.tasks.folder.global_half)

    # -- corrections --------------------------------------------------------------------------------------

    @cached_property
    def _denoiser(self) -> Denoiser:
        return self.tasks.trainer.untrained(FIRST_WEIGHTS)

    def _draw(self, number: int, model: Arrays, wanted: list[int]) -> LabelledImages:
        load_arrays(self._denoiser.network, model)
        self._denoiser.network.eval()
        labels = torch.repeat_interleave(torch.arange(len(wanted)), torch.tensor(wanted))
        sampler = Sampler(self.tasks.config, len(wanted), ("server", "auxiliary", number))
        return sampler.whole_chain(self._denoiser, labels)

    def _correct(self, number: int, edge: Edge, images: LabelledImages) -> None:
        network, steps = self._denoiser.network, self.method.correction_steps
        load_arrays(network, edge.weights)
        config = self.tasks.config
        settings = training_settings(config, steps * self.method.rounds, self.tasks.trainer.device)
        settings = dataclasses.replace(settings, ema_decay=0.0, checkpoint_every=0)
        span = range((number - 1) * steps + 1, number * steps + 1)
        with self.tasks.events.phase(f"correction after round {number}", steps) as progress:
            train_denoiser(
                network,
                self._denoiser.chain,
                self._batches(images),
                settings,
                torch_generator(config.seed, "server", "correction", number),
                progress,
                span=span,
            )
        edge.weights = _weights(self._denoiser)
        self.state.gradient_steps += steps

    def _batches(self, images: LabelledImages) -> Batches:
        return self.tasks.trainer.clean_batches(images)

    @torch.no_grad()
    def _loss(self, weights: Arrays, images: LabelledImages) -> float:
        """Return the loss of weights on the auxiliary images, with the same noise each time."""
        network, chain = self._denoiser.network, self._denoiser.chain
        load_arrays(network, weights)
        network.eval()
        generator = torch_generator(self.tasks.config.seed, "server", "auxiliary loss")
        start, labels = self._batches(images).draw(_JUDGED, generator)
        t = torch.randint(chain.first, chain.last + 1, (len(start),), generator=generator)
        noise = torch.randn(start.shape, generator=generator)
        x_t = chain.diffuse(start, t, noise)
        output = network(
            x_t.to(network.device), (t - 1).to(network.device), class_labels=labels.to(network.device)
        ).sample
        return float(chain.losses(output.float().cpu(), start, x_t, t, noise).mean())


def _weights(denoiser: Denoiser) -> Arrays:
    """Return a copy: the one network at hand also holds, in turn, the clients' models."""
    return {name: array.copy() for name, array in to_arrays(denoiser.network).items()}
