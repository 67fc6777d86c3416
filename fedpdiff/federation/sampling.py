"""Samples for the evaluation: local-only, PFDM, what is handed over, the oracle hand-off."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.batches import Images
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.joining import join
from fedpdiff.diffusion.sampling import refine, sample_two_stage, sample_whole_chain
from fedpdiff.diffusion.training import Progress
from fedpdiff.federation.networks import mixed_precision
from fedpdiff.rng import torch_generator
from fedpdiff.types import LabelledImages, to_uint8

BATCH = 512

Purpose = tuple[str | int, ...]


class Sampler:
    """Draws labelled samples, ``samples-per-class`` of every class, with the settings of a run.

    Parameters
    ----------
    config
        The run's settings.
    num_classes
        K.
    purpose
        Name of the random stream, for example ``("client", 0)``.
    progress
        Called after each batch with (images done, images in all).
    """

    def __init__(
        self, config: RunConfig, num_classes: int, purpose: Purpose, progress: Progress | None = None
    ) -> None:
        self._config = config
        self._purpose = purpose
        self._progress = progress
        self._labels = torch.arange(num_classes).repeat_interleave(config.samples_per_class)

    def whole_chain(self, personal: Denoiser, labels: torch.Tensor | None = None) -> LabelledImages:
        """Sample with one denoiser on the whole chain, with as many steps as both stages have together.

        ``labels``: int64, shape (N,); default ``samples-per-class`` of every class.
        """
        wanted = self._labels if labels is None else labels
        steps = self._config.global_sampling_steps + self._config.personal_sampling_steps

        def draw(labels: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
            return [sample_whole_chain(personal, labels, self._config.sampler, steps, generator)]

        return self._batched(draw, wanted, personal.device, "whole-chain")[0]

    def two_stage(self, global_half: Denoiser, personal: Denoiser) -> tuple[LabelledImages, LabelledImages]:
        """Sample with both halves; return the samples and what the first stage alone makes of them."""
        halves = join(global_half, personal)

        def draw(labels: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
            return list(
                sample_two_stage(
                    *halves,
                    labels,
                    self._config.sampler,
                    self._config.global_sampling_steps,
                    self._config.personal_sampling_steps,
                    generator,
                )
            )

        samples, view = self._batched(draw, self._labels, personal.device, "two-stage")
        return samples, view

    def oracle(
        self, personal: Denoiser, uploads: Images, offset: torch.Tensor, upload_labels: torch.Tensor, t0: int
    ) -> LabelledImages:
        """Refine real uploads (with ``offset``, pixels at level t0), as if a perfect global half made them.

        Uploads are drawn with replacement, as many of each class as samples; a class without uploads is left
        out.
        """
        generator = torch_generator(self._config.seed, *self._purpose, "oracle-choice")
        chosen = []
        for label in upload_labels.unique().tolist():
            rows = torch.nonzero(upload_labels == label).flatten()
            order = torch.randperm(len(rows), generator=generator)
            chosen.append(rows[order[torch.arange(self._config.samples_per_class) % len(rows)]])
        index = torch.cat(chosen)

        def draw(rows: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
            rows = rows.cpu()
            x_t = (uploads[rows] + offset).to(personal.device)
            labels = upload_labels[rows].to(personal.device)
            steps = self._config.personal_sampling_steps
            return [refine(personal, x_t, t0, labels, self._config.sampler, steps, generator)]

        images = self._batched(draw, index, personal.device, "oracle")[0]
        return LabelledImages(images.images, upload_labels[index])

    def _batched(
        self,
        draw: Callable[[torch.Tensor, torch.Generator], list[torch.Tensor]],
        labels: torch.Tensor,
        device: torch.device,
        name: str,
    ) -> list[LabelledImages]:
        generator = torch_generator(self._config.seed, *self._purpose, name)
        parts: list[list[torch.Tensor]] = []
        with torch.no_grad(), mixed_precision(self._config.precision, device):
            for batch in labels.split(BATCH):
                parts.append([to_uint8(pixels) for pixels in draw(batch.to(device), generator)])
                if self._progress is not None:
                    self._progress(sum(len(part[0]) for part in parts), len(labels), None)
        return [LabelledImages(torch.cat(images), labels.clone()) for images in zip(*parts, strict=True)]
