"""``PFDMPipeline``: two folders in, images out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedpdiff import PFDMPipeline
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.joining import join
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.sampling import sample_two_stage
from fedpdiff.errors import ConfigError, DataError


@pytest.fixture
def half(micro: str, describe: Any) -> Any:
    def make(kind: str, **changes: Any) -> Denoiser:
        config = describe(kind, **changes)
        shape = tuple(config.image_shape)
        network = build_network(micro, shape, config.conditions, seed=len(kind)).eval()
        return Denoiser(network, config, torch.full(shape, 0.1 if kind != "personal" else 0.0))

    return make


@pytest.fixture
def pipe(half: Any) -> PFDMPipeline:
    pipeline = PFDMPipeline(half("continued"), half("personal"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipe: PFDMPipeline, labels: Any = (0, 1, 1), seed: int = 1, **settings: Any) -> Any:
    generator = torch.Generator().manual_seed(seed)
    settings = {"num_inference_steps": 6, "output_type": "pt", **settings}
    return pipe(class_labels=list(labels), generator=generator, **settings).images


def test_round_trip_gives_equal_images(pipe: PFDMPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "global", tmp_path / "personal")
    again = PFDMPipeline.from_pretrained(tmp_path / "global", tmp_path / "personal")
    again.set_progress_bar_config(disable=True)
    images = sample(pipe)
    assert torch.equal(images, sample(again))
    assert not torch.equal(images, sample(again, seed=2))
    assert torch.equal(images, sample(again.to("cpu")))


def test_labels_by_name_and_by_number(pipe: PFDMPipeline) -> None:
    assert torch.equal(sample(pipe, [0, 1, 1]), sample(pipe, ["a", "b", "b"]))
    assert not torch.equal(sample(pipe, [0, 0, 0]), sample(pipe, [1, 1, 1]))


def test_digits_as_names(half: Any) -> None:
    names = {"class_names": ["7", "3"]}
    pipe = PFDMPipeline(half("continued", **names), half("personal", **names))
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(sample(pipe, ["3"]), sample(pipe, [1]))


def test_output_types(pipe: PFDMPipeline) -> None:
    tensor = sample(pipe)
    assert tensor.shape == (3, 1, 4, 4)
    assert 0 <= float(tensor.min()) <= float(tensor.max()) <= 1
    array = sample(pipe, output_type="np")
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    images = sample(pipe, output_type="pil")
    assert [(type(image), image.size, image.mode) for image in images] == [(Image.Image, (4, 4), "L")] * 3
    np.testing.assert_array_equal(np.asarray(images[0]), (array[0, :, :, 0] * 255).round())


def test_small_batches_and_a_generator_of_its_own(pipe: PFDMPipeline) -> None:
    assert sample(pipe, [0] * 5, batch_size=2).shape == (5, 1, 4, 4)
    settings = {"class_labels": [0], "num_inference_steps": 2, "output_type": "pt"}
    assert not torch.equal(pipe(**settings).images, pipe(**settings).images)


def test_batches_are_the_parts_of_a_call(pipe: PFDMPipeline) -> None:
    labels = [0, 1, 0, 1, 1]
    settings = {"num_inference_steps": 6, "batch_size": 2}
    whole = pipe(labels, generator=torch.Generator().manual_seed(1), output_type="pt", **settings).images
    parts = list(pipe.batches(labels, generator=torch.Generator().manual_seed(1), **settings))
    assert [len(part) for part in parts] == [2, 2, 1] and not parts[0].requires_grad
    assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(ConfigError, match="class_labels"):
        pipe.batches([7])  # at once, not when the first batch is asked for


def test_the_steps_are_divided_as_asked(pipe: PFDMPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    original = Denoiser.guided

    def spy(self: Denoiser, x: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        asked.append((self.config.kind, t))
        return original(self, x, t, labels)

    monkeypatch.setattr(Denoiser, "guided", spy)
    sample(pipe, num_inference_steps=7, num_global_steps=2)
    assert [kind for kind, _ in asked] == ["continued"] * 2 + ["personal"] * 5
    assert next(t for kind, t in asked if kind == "personal") == 300


@pytest.mark.parametrize("labels", [[2], [-1], ["c"], ["0"], [0.5], [None], []])
def test_wrong_labels(labels: list[Any], pipe: PFDMPipeline) -> None:
    with pytest.raises(ConfigError, match="class_labels"):
        sample(pipe, labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inference_steps": 1}, "num_global_steps = 0: must be between 1 and"),
        ({"num_global_steps": 6}, "num_global_steps = 6: must be between 1 and num_inference_steps - 1 = 5"),
        ({"sampler": "euler"}, "sampler = 'euler'"),
        ({"output_type": "latent"}, "output_type = 'latent'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str, pipe: PFDMPipeline) -> None:
    with pytest.raises(ConfigError, match=message):
        sample(pipe, **settings)


@pytest.mark.parametrize(
    ("first", "second", "changes", "message"),
    [
        ("personal", "personal", {}, "the first folder must hold a global half"),
        ("continued", "nested", {}, "the second a personal half"),
        ("continued", "personal", {"t0": 299}, "do not belong together: t0 is 300 and 299"),
        ("continued", "personal", {"schedule": "cosine"}, "schedule is 'linear' and 'cosine'"),
        ("continued", "personal", {"class_names": ["b", "a"]}, "class_names"),
        ("continued", "personal", {"image_shape": [1, 8, 8]}, "image_shape"),
        ("continued", "personal", {"diffusion_steps": 1001}, "diffusion_steps"),
    ],
)
def test_halves_that_do_not_belong_together(
    first: str, second: str, changes: dict[str, Any], message: str, half: Any
) -> None:
    with pytest.raises(DataError, match=message):
        PFDMPipeline(half(first), half(second, **changes))


def test_a_folder_without_a_half(pipe: PFDMPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "global", tmp_path / "personal")
    with pytest.raises(DataError, match="nowhere"):
        PFDMPipeline.from_pretrained(tmp_path / "nowhere", tmp_path / "personal")
    with pytest.raises(DataError, match="the first folder must hold a global half"):
        PFDMPipeline.from_pretrained(tmp_path / "personal", tmp_path / "global")


@torch.no_grad()
def test_own_moments_are_joined(based_halves: tuple[Denoiser, Denoiser]) -> None:
    pipe = PFDMPipeline(*based_halves)
    pipe.set_progress_bar_config(disable=True)
    generator, steps = torch.Generator().manual_seed(1), (3, 3)
    halves, labels = join(*based_halves), torch.tensor([0, 1, 1])
    wanted = sample_two_stage(*halves, labels, "dpm-solver++", *steps, generator).images
    assert torch.equal(sample(pipe), (wanted + 1) / 2)
    assert not torch.equal(halves[0].base.means, based_halves[0].base.means)
