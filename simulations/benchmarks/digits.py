"""The quickstart's clients in this process, without Flower: releases, both halves, distances of samples."""

from __future__ import annotations

import numpy as np
import torch

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.config.settings import Value
from fedpdiff.data.client import load_client
from fedpdiff.data.public import load_public
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.joining import join
from fedpdiff.diffusion.sampling import sample_two_stage
from fedpdiff.evaluation import reference_images
from fedpdiff.federation.agreement import propose
from fedpdiff.federation.networks import Trainer, mixed_precision
from fedpdiff.metrics.feature_training import train_feature_network
from fedpdiff.metrics.frechet import frechet
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.mechanism import release_integers
from fedpdiff.rng import torch_generator
from fedpdiff.types import LabelledImages, concatenate, to_uint8


class Digits:
    """Clients, mechanism and feature network of one seed; quickstart's settings but for those given.

    Parameters
    ----------
    seed
        Of division, networks, batches and features. The release noise is the operating system's.
    settings
        Settings of the run by name.

    Attributes
    ----------
    config
        The settings.
    mechanism
        What the clients release with.
    clients
        Each one's images.
    """

    def __init__(self, seed: int, **settings: Value) -> None:
        self.config = RunConfig.parse({"seed": seed, "device": "cpu", **settings})
        public = load_public(self.config)
        agreement = propose(self.config, public)
        self.mechanism, self._centre = agreement.mechanism, agreement.centre
        number = self.config.clients
        nodes = [NodeConfig.parse({"partition-id": k, "num-partitions": number}) for k in range(number)]
        self.clients = [load_client(self.config, node) for node in nodes]
        names = self.clients[0].class_names
        self._trainer = Trainer(self.config, self.mechanism, self._centre, names)
        images = concatenate([public, *(client.train for client in self.clients)])
        self._space = train_feature_network(images, len(names), seed)

    def release(self) -> np.ndarray:
        """Return the noisy integers of all clients' images, int16 (N, C, H, W), as they are before coding."""
        mechanism = self.mechanism
        pixels = torch.cat([client.train.pixels() for client in self.clients]).numpy()
        return release_integers(pixels, self._centre, mechanism.clip, mechanism.alpha_bar, SecureNoise())

    def global_half(self, uploads: np.ndarray) -> Denoiser:
        """Train the global half on decoded uploads, float32 (N, C, H, W), in the order of :meth:`release`."""
        labels = torch.cat([client.train.labels for client in self.clients])
        return self._trainer.global_half(torch.from_numpy(uploads), labels)

    def personal(self, client: int) -> Denoiser:
        """Train a client's personal half."""
        return self._trainer.personal(self.clients[client].train, (f"client-{client}", "personal"))

    def distance(
        self,
        client: int,
        halves: tuple[Denoiser, Denoiser],
        seed: int,
        sampler: str | None = None,
        steps: tuple[int, int] | None = None,
        precision: str = "float32",
    ) -> float:
        """Sample a client's rare digits and return their Frechet distance to real test images.

        Parameters
        ----------
        client
            Its number.
        halves
            Global and personal half.
        seed
            Of the sampling noise.
        sampler, steps
            Sampler, and evaluations of both halves; by default those of the settings.
        precision
            In which the networks are evaluated.
        """
        data, config = self.clients[client], self.config
        labels = torch.tensor(data.minority).repeat_interleave(config.samples_per_class)
        evaluations = steps or (config.global_sampling_steps, config.personal_sampling_steps)
        generator = torch_generator(seed, "benchmark", client)
        with torch.no_grad(), mixed_precision(precision, torch.device("cpu")):
            sampler = sampler or config.sampler
            pixels, _ = sample_two_stage(*join(*halves), labels, sampler, *evaluations, generator)
        samples = LabelledImages(to_uint8(pixels), labels)
        reference = reference_images(data.test, data.minority)
        distance = frechet(self._space.features(reference), self._space.features(samples))
        if distance is None:
            raise SystemExit(f"{len(samples)} samples are too few for a Frechet distance")
        return distance
