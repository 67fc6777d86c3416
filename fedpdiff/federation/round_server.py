"""What the server computes in a run that averages weights: first weights, corrections, the moving average."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import torch

from fedpdiff.diffusion.batches import Batches
from fedpdiff.diffusion.denoiser import Denoiser, load_network_arrays, network_arrays
from fedpdiff.diffusion.training import train_denoiser
from fedpdiff.federation.networks import training_settings
from fedpdiff.federation.rounds import FIRST_WEIGHTS, sent_to_clients
from fedpdiff.federation.sampling import Sampler
from fedpdiff.federation.server import ServerTasks
from fedpdiff.methods.base import Arrays, RoundMethod, RunningAverage, check_weights, chosen
from fedpdiff.methods.parts import PARTS, Parts
from fedpdiff.rng import numpy_generator, torch_generator
from fedpdiff.types import LabelledImages, concatenate

_JUDGED = 512  # images of the auxiliary set whose loss tells how learning goes


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
    weights
        What the next round starts from.
    average
        Their moving average, which sampling uses.
    gradient_steps
        Taken by the server so far.
    """

    def __init__(self, tasks: ServerTasks, method: RoundMethod) -> None:
        self.tasks = tasks
        self.method = method
        self.weights: Arrays = _weights(self._denoiser)
        self.average = RunningAverage()
        self.gradient_steps = 0
        self._auxiliary: LabelledImages | None = None
        self._losses: list[float] = []

    def roles(self, number: int, clients: int) -> list[Parts]:
        """Return which parts each client trains in a round; in round 0 everything."""
        if number == 0:
            return [PARTS] * clients
        return self.method.assign(clients, numpy_generator(self.tasks.config.seed, "server", "roles", number))

    def outgoing(self, number: int) -> Arrays:
        """Return what travels to the clients at the beginning of a round, as it travels."""
        return self.method.encode(chosen(self.weights, sent_to_clients(self.method.exchanged, number)))

    def incoming(self, number: int, parts: Parts, arrays: Arrays) -> Arrays:
        """Return a client's update as weights.

        Raises
        ------
        DataError
            When it is not exactly the parts that the client was asked for, of this network, all finite.
        """
        weights = self.method.decode(arrays)
        asked = parts & self.method.exchanged if number else PARTS
        check_weights(weights, chosen(self.weights, asked))
        return weights

    def final(self) -> Arrays:
        """Return what the clients sample with, as it travels."""
        return self.method.encode(self.average.weights)

    def take(self, number: int, aggregate: Arrays) -> None:
        """Make a round's aggregate the next weights, corrected where the method says so."""
        self.weights = self.weights | aggregate
        if self._auxiliary is not None:
            self._losses.append(self._loss(self._auxiliary))
            if self.method.correction_steps and self.method.corrects(self._losses):
                self._correct(number, self._auxiliary)
        exchanged = {name: self.weights[name] for name in aggregate}
        self.average.add(exchanged, len(self.method.span(number)), self.tasks.config.ema_decay)

    def draw_auxiliary(self, models: list[Arrays], class_counts: list[list[int]]) -> None:
        """Draw images from the clients' own models: of each its share, with its own mix of classes."""
        total = sum(map(sum, class_counts))
        parts = []
        with self.tasks.events.phase("auxiliary images", len(models)) as progress:
            for number, (model, counts) in enumerate(zip(models, class_counts, strict=True)):
                wanted = [round(self.tasks.config.auxiliary_images * count / total) for count in counts]
                parts.append(self._draw(number, model, wanted))
                progress(number + 1, len(models))
        self._auxiliary = concatenate(parts)

    def save(self) -> None:
        """Write the network that sampling uses to the run folder, where there is one for everybody."""
        load_network_arrays(self._denoiser.network, self.weights | self.average.weights)
        self._denoiser.network.eval()
        self._denoiser.save_pretrained(self.tasks.folder.global_half)

    # -- corrections --------------------------------------------------------------------------------------

    @cached_property
    def _denoiser(self) -> Denoiser:
        return self.tasks.trainer.untrained(FIRST_WEIGHTS)

    def _draw(self, number: int, model: Arrays, wanted: list[int]) -> LabelledImages:
        load_network_arrays(self._denoiser.network, model)
        self._denoiser.network.eval()
        labels = torch.repeat_interleave(torch.arange(len(wanted)), torch.tensor(wanted))
        sampler = Sampler(self.tasks.config, len(wanted), ("server", "auxiliary", number))
        return sampler.whole_chain(self._denoiser, labels)

    def _correct(self, number: int, images: LabelledImages) -> None:
        network, steps = self._denoiser.network, self.method.correction_steps
        load_network_arrays(network, self.weights)
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
        self.weights = _weights(self._denoiser)
        self.gradient_steps += steps

    def _batches(self, images: LabelledImages) -> Batches:
        return self.tasks.trainer.clean_batches(images)

    @torch.no_grad()
    def _loss(self, images: LabelledImages) -> float:
        """Return the loss of the weights on the auxiliary images, with the same noise each time."""
        network, chain = self._denoiser.network, self._denoiser.chain
        load_network_arrays(network, self.weights)
        network.eval()
        generator = torch_generator(self.tasks.config.seed, "server", "auxiliary loss")
        start, labels = self._batches(images).draw(_JUDGED, generator)
        t = torch.randint(chain.first, chain.last + 1, (len(start),), generator=generator)
        noise = torch.randn(start.shape, generator=generator)
        x_t = chain.diffuse(start, t, noise)
        output = network(
            x_t.to(network.device), (t - 1).to(network.device), class_labels=labels.to(network.device)
        ).sample
        return float(chain.loss(output.float().cpu(), start, x_t, t, noise))


def _weights(denoiser: Denoiser) -> Arrays:
    """Return a copy: the one network at hand also holds, in turn, the clients' models."""
    return {name: array.copy() for name, array in network_arrays(denoiser.network).items()}
