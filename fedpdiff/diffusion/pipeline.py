"""``PFDMPipeline``: the two halves as a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput

from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.joining import join
from fedpdiff.diffusion.sampling import SAMPLERS, sample_two_stage
from fedpdiff.errors import ConfigError, DataError


class PFDMPipeline(DiffusionPipeline):
    """Sample images with a global and a personal denoiser (PFDM, arXiv 2504.00952).

    The two halves live in a folder each, because only the global one may be published.

    Parameters
    ----------
    global_half, personal
        The denoisers; they must agree on schedule, hand-off level, classes and image shape.

    Raises
    ------
    DataError
        When the halves do not belong together.

    Examples
    --------
    >>> pipe = PFDMPipeline.from_pretrained("run/server/global", "run/client-0/state/personal")
    ... # doctest: +SKIP
    >>> images = pipe(class_labels=[3] * 16, num_inference_steps=50).images  # doctest: +SKIP
    """

    def __init__(self, global_half: Denoiser, personal: Denoiser) -> None:
        super().__init__()
        _check_halves(global_half, personal)
        self.register_modules(global_half=global_half, personal=personal)

    def __call__(
        self,
        class_labels: list[int] | list[str],
        num_inference_steps: int = 40,
        num_global_steps: int | None = None,
        sampler: str = "dpm-solver++",
        generator: torch.Generator | None = None,
        batch_size: int = 256,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Sample one image per label, and return all of them together.

        Parameters
        ----------
        class_labels
            Class numbers or names.
        num_inference_steps
            Steps in both stages together.
        num_global_steps
            How many of them the global half takes; default half.
        sampler
            ``"dpm-solver++"``, ``"ddim"`` or ``"ddpm"``.
        generator
            Randomness; default a fresh one.
        batch_size
            Images at a time.
        output_type
            ``"pil"``, ``"np"`` (float in [0, 1], N x H x W x C) or ``"pt"`` (float in [0, 1], N x C x H x W).

        Raises
        ------
        ConfigError
            When a label, a number of steps, the sampler or the output type is not possible.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ConfigError(f"output_type = {output_type!r}: must be one of pil, np, pt")
        batches = self.batches(
            class_labels, num_inference_steps, num_global_steps, sampler, generator, batch_size
        )
        images = torch.cat(list(batches))
        if output_type == "pt":
            return ImagePipelineOutput(images=images)
        array = images.permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(array) if output_type == "pil" else array)

    def batches(
        self,
        class_labels: list[int] | list[str],
        num_inference_steps: int = 40,
        num_global_steps: int | None = None,
        sampler: str = "dpm-solver++",
        generator: torch.Generator | None = None,
        batch_size: int = 256,
    ) -> Iterator[torch.Tensor]:
        """Return the images batch by batch, for more of them than memory holds; parameters as of a call.

        Yields
        ------
        torch.Tensor
            float32 in [0, 1], shape (N, C, H, W), on the CPU: the next ``batch_size`` images or fewer.

        Raises
        ------
        ConfigError
            At once, when a label, a number of steps or the sampler is not possible.
        """
        if len(class_labels) == 0:
            raise ConfigError("class_labels is empty: give one class number or name for each image")
        labels = torch.tensor([self._class_number(label) for label in class_labels])
        first = num_inference_steps // 2 if num_global_steps is None else num_global_steps
        if not 1 <= first < num_inference_steps:
            raise ConfigError(
                f"num_global_steps = {first}: must be between 1 and num_inference_steps - 1 = "
                f"{num_inference_steps - 1}"
            )
        if sampler not in SAMPLERS:
            raise ConfigError(f"sampler = {sampler!r}: must be one of {', '.join(SAMPLERS)}")
        if generator is None:
            generator = torch.Generator()
            generator.seed()
        steps = (first, num_inference_steps - first)
        return self._drawn(labels.split(batch_size), sampler, steps, generator)

    def _drawn(
        self,
        batches: tuple[torch.Tensor, ...],
        sampler: str,
        steps: tuple[int, int],
        generator: torch.Generator,
    ) -> Iterator[torch.Tensor]:
        halves, device = join(self.global_half, self.personal), self.global_half.device
        for labels in self.progress_bar(batches):
            with torch.no_grad():
                samples = sample_two_stage(*halves, labels.to(device), sampler, *steps, generator)
            yield samples.images.cpu().add(1).div(2)

    def _class_number(self, label: int | str) -> int:
        names = self.personal.config.class_names
        if label in names:
            return names.index(str(label))
        if isinstance(label, int) and 0 <= label < len(names):
            return label
        raise ConfigError(
            f"class_labels: {label!r} is neither a number from 0 to {len(names) - 1} nor one of "
            f"{', '.join(names)}"
        )

    def save_pretrained(  # two folders, because only one may be published
        self, global_dir: str | Path, personal_dir: str | Path
    ) -> None:
        """Write each half to its own folder."""
        self.global_half.save_pretrained(global_dir)
        self.personal.save_pretrained(personal_dir)

    @classmethod
    def from_pretrained(
        cls, global_dir: str | Path, personal_dir: str | Path, device: str | torch.device = "cpu"
    ) -> PFDMPipeline:
        """Read both halves.

        Raises
        ------
        DataError
            When a folder holds no readable half or the two do not belong together.
        """
        return cls(
            Denoiser.from_pretrained(global_dir, device), Denoiser.from_pretrained(personal_dir, device)
        )


def _check_halves(global_half: Denoiser, personal: Denoiser) -> None:
    if global_half.config.kind == "personal" or personal.config.kind != "personal":
        raise DataError(
            f"the first folder must hold a global half and the second a personal half, but they hold "
            f"{global_half.config.kind!r} and {personal.config.kind!r}"
        )
    shared: tuple[str, ...] = ("schedule", "diffusion_steps", "t0", "hand_off", "class_names", "image_shape")
    for key in shared:
        ours: Any = getattr(global_half.config, key)
        theirs: Any = getattr(personal.config, key)
        if ours != theirs:
            raise DataError(f"the two halves do not belong together: {key} is {ours!r} and {theirs!r}")
