"""Which networks a run trains, on which levels and from which seeds: one place for clients and server."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from fedpdiff.config import RunConfig
from fedpdiff.data.classes import absent_classes
from fedpdiff.diffusion.batches import (
    Batches,
    CleanImages,
    ClipMixedImages,
    Images,
    LabelDropout,
    Uploads,
)
from fedpdiff.diffusion.class_gaussian import ClassGaussian
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.denoiser_config import DenoiserConfig
from fedpdiff.diffusion.linear_gaussian import LinearGaussian
from fedpdiff.diffusion.networks import build_network, start_from_nothing
from fedpdiff.diffusion.training import Progress, TrainingSettings, train_denoiser
from fedpdiff.diffusion.workers import train_on_workers
from fedpdiff.errors import ConfigError
from fedpdiff.federation.agreement import hand_off_level, level_of_signal
from fedpdiff.federation.protocol import Mechanism
from fedpdiff.privacy.mechanism import clip
from fedpdiff.rng import torch_generator
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

CHECKPOINTS = 20
"""Of a real site's or server's training whose settings ask for none: a crash costs at most 5 % of it."""


def with_checkpoints(config: RunConfig, steps: int) -> RunConfig:
    """Return settings that keep checkpoints of a training of so many steps, also where they ask for none."""
    if config.checkpoint_every:
        return config
    return config.model_copy(update={"checkpoint_every": -(-steps // CHECKPOINTS)})


def choose_device(name: str) -> torch.device:
    """Return the torch device for the ``device`` setting.

    Raises
    ------
    ConfigError
        When a CUDA device is named that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device = {name!r}: torch sees no CUDA device here; set device = 'cpu' or 'auto'")
    return torch.device(name)


def use_threads(threads: int) -> None:
    """Let torch, numpy and scipy use this many CPU threads in this process; 0 leaves their own choice.

    With another number of threads linear algebra adds up in another order, so last digits differ.
    """
    if threads:
        torch.set_num_threads(threads)
        threadpool_limits(threads)


def training_settings(config: RunConfig, steps: int, device: torch.device) -> TrainingSettings:
    """Return the optimisation settings for ``steps`` gradient steps."""
    return TrainingSettings(
        steps=steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        ema_decay=config.ema_decay,
        gradient_clip=config.gradient_clip,
        bfloat16=_uses_bfloat16(config.precision, device),
        checkpoint_every=config.checkpoint_every,
        compiled=config.compile,
    )


def mixed_precision(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which networks are evaluated, by the ``precision`` setting."""
    return torch.autocast(device.type, torch.bfloat16, enabled=_uses_bfloat16(precision, device))


def _uses_bfloat16(precision: str, device: torch.device) -> bool:
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


class Trainer:
    """Trains the networks of one run.

    Parameters
    ----------
    config
        The run's settings.
    mechanism, centre
        The agreed release: level t0, clip radius and public centre.
    class_names
        The run's classes in order.
    """

    def __init__(
        self, config: RunConfig, mechanism: Mechanism, centre: np.ndarray, class_names: tuple[str, ...]
    ) -> None:
        self.config = config
        self.mechanism = mechanism
        self.centre = torch.from_numpy(np.array(centre, np.float32))
        self.class_names = class_names
        self.device = choose_device(config.device)

    @classmethod
    def of_whole_chain(cls, config: RunConfig, class_names: tuple[str, ...]) -> Trainer:
        """Return the trainer of a run without releases: no chain is split (t0 = T), nothing is clipped."""
        schedule, last = NoiseSchedule(config.schedule, config.diffusion_steps), config.diffusion_steps
        mechanism = Mechanism(
            t0=last,
            alpha_bar=float(schedule.alpha_bar[last]),
            schedule=config.schedule,
            diffusion_steps=last,
            clip=math.sqrt(config.num_pixels),
            delta=config.delta,
            noise=config.release_noise,
            wire_bits=config.wire_bits,
            image_shape=list(config.image_shape),
        )
        return cls(config, mechanism, np.zeros(config.image_shape, np.float32), class_names)

    @property
    def hand_off(self) -> int:
        """Level at which networks of clean images take over; T where nothing comes before them."""
        if self.mechanism.t0 < self.mechanism.diffusion_steps:
            return hand_off_level(self.config, self.mechanism.t0)
        return self.mechanism.t0 if self.config.personal_base == "none" else level_of_signal(self.config)

    def personal(
        self,
        images: LabelledImages,
        purpose: tuple[str | int, ...],
        last: int | None = None,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
    ) -> Denoiser:
        """Train a denoiser on clean images, levels 1 .. ``last`` (default T).

        ``purpose`` names its random stream, for example ``("client", 0, "personal")``.
        """
        counts = images.counts(len(self.class_names))
        config = self._denoiser_config("personal", last or self.config.diffusion_steps, counts)
        batches, centre = self.clean_batches(images), torch.zeros_like(self.centre)
        trained = self._train(config, batches, centre, purpose, progress, checkpoint)
        return self.with_own_base(trained, images)

    def with_own_base(self, denoiser: Denoiser, images: LabelledImages) -> Denoiser:
        """Return a denoiser of clean images with the base that the settings want, from these images."""
        config = denoiser.config.model_copy(update={"base": self.config.personal_base})
        base = config.empty_base()
        if isinstance(base, ClassGaussian):
            base.fit(images, torch_generator(self.config.seed, "own base"))
            base.to(self.device)
        return Denoiser(denoiser.network, config, denoiser.centre, base)

    def clean_batches(self, images: LabelledImages) -> Batches:
        """Return what a network learns from clean images: balanced, with flag and hidden labels if so set."""
        clean = CleanImages(images, self.config.class_balance)
        batches: Batches = clean
        if self.config.clip_flag:
            batches = ClipMixedImages(clean, len(self.class_names), self._clip_pixels)
        config = self._denoiser_config("personal", self.config.diffusion_steps)
        if config.hidden_label:
            batches = LabelDropout(batches, self.config.label_dropout, config.conditions - 1)
        return batches

    def untrained(self, purpose: tuple[str | int, ...], counts: list[int] | None = None) -> Denoiser:
        """Return a denoiser of clean images on the whole chain, with the first weights of a purpose.

        ``counts``: images of each class that it will be trained on, where these are one client's own.
        """
        config = self._denoiser_config("personal", self.config.diffusion_steps, counts)
        seed = torch_generator(self.config.seed, *purpose, "weights").initial_seed()
        return Denoiser(self._network(config, seed), config, torch.zeros_like(self.centre))

    def global_half(
        self,
        uploads: Images,
        labels: torch.Tensor,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
    ) -> Denoiser:
        """Train the global denoiser on pooled uploads at level t0, which may lie on the disk.

        With ``global-workers`` above 1 each of so many processes is handed what ``uploads`` holds in memory.
        """
        config = self._denoiser_config(self.config.chain, self.config.diffusion_steps)
        base = self._uploads_base(config, uploads, labels)
        batches = Uploads(uploads, labels)
        return self._train(config, batches, self.centre, ("server", "global"), progress, checkpoint, base)

    def _uploads_base(
        self, config: DenoiserConfig, uploads: Images, labels: torch.Tensor
    ) -> LinearGaussian | None:
        base = config.empty_base()
        if not isinstance(base, LinearGaussian):
            return None
        generator = torch_generator(self.config.seed, "server", "global", "base")
        base.fit(uploads, labels, config.chain().start, generator)
        return base.to(self.device)

    def empty_global_half(self) -> Denoiser:
        """Return the global denoiser with untrained weights, to load received ones into."""
        config = self._denoiser_config(self.config.chain, self.config.diffusion_steps)
        base = config.empty_base()
        return Denoiser(self._network(config, 0).eval(), config, self.centre, base and base.to(self.device))

    def _train(
        self,
        config: DenoiserConfig,
        batches: Batches,
        centre: torch.Tensor,
        purpose: tuple[str | int, ...],
        progress: Progress | None,
        checkpoint: Path | None,
        base: LinearGaussian | None = None,
    ) -> Denoiser:
        seed = self.config.seed
        network = self._network(config, torch_generator(seed, *purpose, "weights").initial_seed())
        steps = self.config.personal_steps if config.kind == "personal" else self.config.global_steps
        settings = training_settings(self.config, steps, self.device)
        generator = torch_generator(seed, *purpose, "training")
        if base is not None:
            start_from_nothing(network)
        task = (network, config.chain(), batches, settings, generator, progress, checkpoint)
        workers = 1 if config.kind == "personal" else self.config.global_workers
        if workers == 1:
            train_denoiser(*task, base=base)
        else:
            train_on_workers(workers, *task, base=base)
        return Denoiser(network, config, centre, base)

    def _network(self, config: DenoiserConfig, seed: int) -> torch.nn.Module:
        channels, height, width = config.image_shape
        network = build_network(self.config.network, (channels, height, width), config.conditions, seed)
        return network.to(self.device)

    def _denoiser_config(self, kind: str, last: int, counts: list[int] | None = None) -> DenoiserConfig:
        """Return the description of a half that is trained on ``counts`` images per class, where known."""
        personal = kind == "personal"
        hides = personal and self.config.label_dropout > 0
        return DenoiserConfig.model_validate(
            {
                "kind": kind,
                "objective": self.config.personal_objective if personal else self.config.objective,
                "schedule": self.mechanism.schedule,
                "diffusion_steps": self.mechanism.diffusion_steps,
                "t0": self.mechanism.t0,
                "hand_off": self.hand_off,
                "last": last,
                "class_names": list(self.class_names),
                "image_shape": self.mechanism.image_shape,
                "clip": self.mechanism.clip,
                "clip_flag": personal and self.config.clip_flag,
                "clip_flag_switch": self.config.clip_flag_switch,
                "release_noise": self.mechanism.noise,
                "hidden_label": hides,
                "guidance_scale": self.config.guidance_scale if hides else 1.0,
                # A personal half gets its base after the training.
                "base": "none" if personal else self.config.global_base,
                "unseen": list(absent_classes(counts)) if hides and counts else [],
            }
        )

    def _clip_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        clipped = clip(pixels.numpy(), self.centre.numpy(), self.mechanism.clip)
        return torch.from_numpy(clipped).float() + self.centre
