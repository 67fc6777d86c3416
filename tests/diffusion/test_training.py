"""Training: it learns, repeats bit for bit, resumes as if nothing had happened, stops when it diverges."""

from __future__ import annotations

import dataclasses
import resource
from pathlib import Path

import pytest
import torch

from fedpdiff.diffusion.batches import CleanImages
from fedpdiff.diffusion.chain import Chain, global_chain, personal_chain
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import Progress, TrainingSettings, train_denoiser
from fedpdiff.errors import DataError, RunError
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

SCHEDULE = NoiseSchedule("linear", 1000)
SETTINGS = TrainingSettings(
    steps=12,
    batch_size=8,
    learning_rate=5e-3,
    warmup_steps=2,
    ema_decay=0.9,
    gradient_clip=1.0,
    checkpoint_every=5,
)

State = dict[str, torch.Tensor]


def train(
    network: str,
    images: LabelledImages,
    settings: TrainingSettings = SETTINGS,
    seed: int = 1,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> State:
    unet = build_network(network, (1, 4, 4), 2, seed=1)
    batches = CleanImages(images, 1.0)
    generator = torch.Generator().manual_seed(seed)
    chain = personal_chain(SCHEDULE)
    result = train_denoiser(unet, chain, batches, settings, generator, progress, checkpoint)
    assert result is unet
    assert not result.training
    return {name: tensor.clone() for name, tensor in result.state_dict().items()}


def equal(one: State, other: State) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class Interrupted(Exception):
    """Stands for a crash."""


def interrupt_at(last: int) -> Progress:
    def progress(step: int, steps: int, loss: float | None) -> None:
        if step == last:
            raise Interrupted

    return progress


@pytest.mark.parametrize("kind", ["personal", "continued", "nested"])
def test_the_loss_falls(kind: str, stripes: LabelledImages, micro: str) -> None:
    losses: list[float] = []
    settings = dataclasses.replace(SETTINGS, steps=60, batch_size=32, checkpoint_every=0)
    chain = personal_chain(SCHEDULE) if kind == "personal" else global_chain(SCHEDULE, 50, kind, "ambient")  # type: ignore[arg-type]
    train_denoiser(
        build_network(micro, (1, 4, 4), 2, seed=1),
        chain,
        CleanImages(stripes, 1.0),
        settings,
        torch.Generator().manual_seed(1),
        lambda step, steps, loss: losses.append(loss or 0.0),
    )
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize(
    ("chain", "indices"),
    [
        (personal_chain(SCHEDULE, 5), {0, 1, 2, 3, 4}),
        (global_chain(SCHEDULE, 995, "continued", "ambient"), {995, 996, 997, 998, 999}),
    ],
)
def test_the_network_is_told_diffusers_index_of_each_level(
    chain: Chain, indices: set[int], stripes: LabelledImages, micro: str
) -> None:
    """Level t is diffusers' index t - 1; of 96 draws each of five levels is missed with probability 1e-9."""
    unet = build_network(micro, (1, 4, 4), 2, seed=1)
    told: set[int] = set()
    unet.register_forward_pre_hook(lambda _, inputs: told.update(inputs[1].tolist()))
    batches, generator = CleanImages(stripes, 1.0), torch.Generator().manual_seed(1)
    train_denoiser(unet, chain, batches, SETTINGS, generator)
    assert told == indices


@pytest.mark.parametrize("dropout", [False, True])
def test_equal_seeds_give_equal_weights(
    dropout: bool, stripes: LabelledImages, micro: str, micro_with_dropout: str
) -> None:
    network = micro_with_dropout if dropout else micro
    torch.manual_seed(1)
    first = train(network, stripes)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert equal(first, train(network, stripes))
    assert torch.equal(torch.get_rng_state(), state)
    assert not equal(first, train(network, stripes, seed=2))


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("crash", [7, 10])
def test_a_resumed_training_equals_an_uninterrupted_one(
    crash: int, dropout: bool, stripes: LabelledImages, micro: str, micro_with_dropout: str, tmp_path: Path
) -> None:
    network, file = micro_with_dropout if dropout else micro, tmp_path / "state" / "checkpoint.safetensors"
    with pytest.raises(Interrupted):
        train(network, stripes, progress=interrupt_at(crash), checkpoint=file)
    steps: list[int] = []
    resumed = train(network, stripes, progress=lambda step, *_: steps.append(step), checkpoint=file)
    assert steps[0] == 6
    assert equal(resumed, train(network, stripes))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("steps", [10, 12])
def test_a_finished_training_is_not_repeated(
    steps: int, stripes: LabelledImages, micro: str, tmp_path: Path
) -> None:
    """Also where a checkpoint was not due after the last step."""
    settings = dataclasses.replace(SETTINGS, steps=steps)
    file = tmp_path / "checkpoint.safetensors"
    first = train(micro, stripes, settings, checkpoint=file)
    assert equal(first, train(micro, stripes, settings, progress=interrupt_at(steps), checkpoint=file))


def test_the_checkpoint_of_another_training_is_not_taken(
    stripes: LabelledImages, micro: str, tmp_path: Path
) -> None:
    """A site's folder outlives runs, so another seed, other settings or other images must start anew."""
    file = tmp_path / "checkpoint.safetensors"
    train(micro, stripes, checkpoint=file)
    left_over = file.read_bytes()
    other_images = LabelledImages(255 - stripes.images, stripes.labels)
    other_rate = dataclasses.replace(SETTINGS, learning_rate=1e-3)
    for images, settings, seed in [
        (stripes, SETTINGS, 2),
        (stripes, other_rate, 1),
        (other_images, SETTINGS, 1),
    ]:
        file.write_bytes(left_over)
        wanted = train(micro, images, settings, seed)
        assert equal(wanted, train(micro, images, settings, seed, checkpoint=file))


def test_broken_checkpoints_are_named(stripes: LabelledImages, micro: str, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    train(micro, stripes, checkpoint=file)
    whole = file.read_bytes()
    for content in (b"", b"\x00" * 100, whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(DataError, match="not a checkpoint of this network") as error:
            train(micro, stripes, checkpoint=file)
        assert str(file) in str(error.value)
        assert "delete it" in str(error.value)


def test_a_checkpoint_of_another_network_is_refused(
    stripes: LabelledImages, micro: str, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint.safetensors"
    train(micro, stripes, checkpoint=file)
    with pytest.raises(DataError, match="not a checkpoint of this network"):
        train("tiny", stripes, checkpoint=file)


def test_divergence_stops_the_training(stripes: LabelledImages, micro: str) -> None:
    settings = dataclasses.replace(SETTINGS, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(RunError, match=r"training diverged: the loss is .* lower learning-rate"):
        train(micro, stripes, settings)


def test_the_returned_weights_are_the_moving_average(stripes: LabelledImages, micro: str) -> None:
    """The averages' decay after step k is min(ema-decay, 1 - k^-0.75), so that early weights fade."""
    settings = dataclasses.replace(SETTINGS, ema_decay=0.5)
    unet = build_network(micro, (1, 4, 4), 2, seed=1)
    average: list[torch.Tensor] = []
    raw: list[torch.Tensor] = []

    def follow(step: int, steps: int, loss: float | None) -> None:
        raw[:] = [p.detach().clone() for p in unet.parameters()]
        decay = min(0.5, 1 - step**-0.75)
        average[:] = [decay * a + (1 - decay) * p for a, p in zip(average or raw, raw, strict=True)]

    batches, generator = CleanImages(stripes, 1.0), torch.Generator().manual_seed(1)
    train_denoiser(unet, personal_chain(SCHEDULE), batches, settings, generator, follow)
    for parameter, wanted in zip(unet.parameters(), average, strict=True):
        torch.testing.assert_close(parameter.detach(), wanted)
    assert any(not torch.allclose(p, last) for p, last in zip(unet.parameters(), raw, strict=True))


def test_bfloat16_keeps_float32_weights(stripes: LabelledImages, micro: str) -> None:
    weights = train(micro, stripes, dataclasses.replace(SETTINGS, steps=2, bfloat16=True))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(
    stripes: LabelledImages, micro: str, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Interrupted):
        train(micro, stripes, progress=interrupt_at(6), checkpoint=file)
    before = file.read_bytes()
    # A limit on the size of files stands for the disk: the system refuses to write in the same way.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(RunError, match=r"step 10: the disk is full; make room and start again"):
            train(micro, stripes, checkpoint=file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert list(tmp_path.glob("*.tmp")) == []
