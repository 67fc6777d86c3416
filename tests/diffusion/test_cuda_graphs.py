"""A network as training calls it: what autocast leaves, that a capture changes nothing, what may fail."""

from __future__ import annotations

import copy
import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from fedpdiff.diffusion import cuda_graphs as module
from fedpdiff.diffusion import training
from fedpdiff.diffusion.batches import CleanImages
from fedpdiff.diffusion.chain import personal_chain
from fedpdiff.diffusion.cuda_graphs import WORTH_CAPTURING, Evaluated, captured, worth_capturing
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import TrainingSettings, train_denoiser
from fedpdiff.errors import RunError
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SETTINGS = TrainingSettings(
    steps=WORTH_CAPTURING + 10,
    batch_size=8,
    learning_rate=5e-3,
    warmup_steps=2,
    ema_decay=0.9,
    gradient_clip=1.0,
)

State = dict[str, torch.Tensor]


def batch(device: str, seed: int = 1, size: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(size, 1, 4, 4, generator=generator)
    levels = torch.randint(0, 1000, (size,), generator=generator)
    labels = torch.randint(0, 2, (size,), generator=generator)
    return x_t.to(device), levels.to(device), labels.to(device)


def backward(network: UNet2DModel, evaluate: Any, device: str, seed: int) -> tuple[torch.Tensor, State]:
    """Return the output for a batch, and the gradients of the mean of its squares."""
    network.zero_grad(set_to_none=True)
    output = evaluate(*batch(device, seed))
    output.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return output.detach().clone(), gradients


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_output_is_float32_and_that_of_the_network(micro: str, bfloat16: bool) -> None:
    network = build_network(micro, (1, 4, 4), 2, seed=1)
    x_t, levels, labels = batch("cpu")
    output = Evaluated(network, bfloat16)(x_t, levels, labels)
    expected = network(x_t, levels, class_labels=labels).sample
    assert output.dtype is torch.float32
    assert torch.equal(output, expected) is not bfloat16
    assert (output - expected).norm() < 0.02 * expected.norm()


def test_what_cannot_be_compiled_is_said(micro: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_a_compiler(module: torch.nn.Module, dynamic: bool) -> torch.nn.Module:
        def fail(*_: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("Failed to find C compiler.\nmore of it")

        module.forward = fail  # type: ignore[method-assign]
        return module

    monkeypatch.setattr(torch, "compile", without_a_compiler)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    evaluated = Evaluated(build_network(micro, (1, 4, 4), 2, seed=1), False)
    with pytest.raises(RunError, match=r"compile = true: .*Failed to find C compiler\. .*compile = false"):
        captured(evaluated, batch("cpu")[0], compiled=True)


def test_a_checkpoint_does_not_ask_whether_the_network_was_compiled() -> None:
    assert repr(dataclasses.replace(SETTINGS, compiled=True)) == repr(SETTINGS)


def on_a_gpu(network: UNet2DModel) -> Any:
    return SimpleNamespace(config=network.config, device=torch.device("cuda", 1))


def test_what_is_captured(micro: str, tmp_path: Path) -> None:
    network = build_network(micro, (1, 4, 4), 2, seed=1)
    assert worth_capturing(on_a_gpu(network), WORTH_CAPTURING)
    assert not worth_capturing(on_a_gpu(network), WORTH_CAPTURING - 1)
    assert not worth_capturing(network, WORTH_CAPTURING)
    settings = json.loads(Path(micro).read_text())
    settings["down_block_types"] = [
        "SkipDownBlock2D",
        "DownBlock2D",
    ]  # copies its filter to the GPU each time
    (tmp_path / "skips.json").write_text(json.dumps(settings))
    other = build_network(str(tmp_path / "skips.json"), (1, 4, 4), 2, seed=1)
    assert not worth_capturing(on_a_gpu(other), WORTH_CAPTURING)


@pytest.mark.parametrize(("steps", "finished"), [(12, False), (12, True), (11, False)])
def test_a_training_is_captured_as_a_whole_or_not_at_all(
    steps: int,
    finished: bool,
    micro: str,
    stripes: LabelledImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it goes on after a checkpoint, too, so that it goes on as it began."""
    taken: list[tuple[torch.Size, bool]] = []

    def as_it_is(evaluated: Evaluated, images: torch.Tensor, compiled: bool) -> Evaluated:
        taken.append((images.shape, compiled))
        return evaluated

    monkeypatch.setattr(training, "captured", as_it_is)
    monkeypatch.setattr(training, "worth_capturing", lambda network, steps: steps >= 12)
    settings = dataclasses.replace(SETTINGS, steps=steps, checkpoint_every=10, compiled=True)
    checkpoint = tmp_path / "checkpoint.safetensors"

    def train(stop: int | None = None) -> None:
        def progress(step: int, steps: int, loss: float | None) -> None:
            if step == stop:
                raise InterruptedError

        network = build_network(micro, (1, 4, 4), 2, seed=1)
        chain, generator = personal_chain(NoiseSchedule("linear", 1000)), torch.Generator().manual_seed(1)
        batches = CleanImages(stripes, 1.0)
        train_denoiser(network, chain, batches, settings, generator, progress, checkpoint)

    if finished:
        train()
    else:
        with pytest.raises(InterruptedError):
            train(stop=11)
    train()
    captures = 0 if steps < 12 else 1 if finished else 2
    assert taken == captures * [(torch.Size([8, 1, 4, 4]), True)]


def test_a_capture_is_on_the_images_device(micro: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch captures on its current device, whatever its arguments are on."""
    entered: list[torch.device] = []
    left: list[bool] = []

    class Device:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            entered.append(self.device)

        def __exit__(self, *_: object) -> None:
            left.append(True)

    def graphed(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> torch.nn.Module:
        assert entered and not left
        assert [tensor.shape for tensor in example] == [(8, 1, 4, 4), (8,), (8,)]
        return module

    monkeypatch.setattr(module.torch.cuda, "device", Device)
    monkeypatch.setattr(module.torch.cuda, "make_graphed_callables", graphed)
    evaluated = Evaluated(build_network(micro, (1, 4, 4), 2, seed=1), False)
    assert captured(evaluated, batch("cpu")[0], compiled=False) is evaluated
    assert entered == [torch.device("cpu")]
    assert left == [True]


# -- on a GPU ---------------------------------------------------------------------------------------------


@needs_a_gpu
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_capture_gives_the_networks_outputs_and_gradients(micro: str, compiled: bool) -> None:
    network = build_network(micro, (1, 4, 4), 2, seed=1).cuda().train()
    other = copy.deepcopy(network)
    evaluate = captured(Evaluated(other, False), batch("cuda")[0], compiled)
    for seed in (1, 2):
        output, gradients = backward(other, evaluate, "cuda", seed)
        expected, theirs = backward(network, Evaluated(network, False), "cuda", seed)
        assert torch.allclose(output, expected, rtol=2e-3, atol=2e-4)
        assert gradients.keys() == theirs.keys()
        for name, gradient in theirs.items():
            assert (gradients[name] - gradient).norm() <= 5e-3 * gradient.norm() + 1e-6, name


@needs_a_gpu
def test_dropout_in_a_capture_follows_the_seed(micro_with_dropout: str) -> None:
    network = build_network(micro_with_dropout, (1, 4, 4), 2, seed=1).cuda().train()
    evaluate = captured(Evaluated(network, False), batch("cuda")[0], compiled=False)
    outputs = []
    for seed in (5, 6, 5):
        torch.manual_seed(seed)
        outputs.append(evaluate(*batch("cuda")).detach().clone())
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)


@needs_a_gpu
def test_a_training_is_the_same_with_a_capture(
    micro: str, stripes: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = []
    real = training.captured
    monkeypatch.setattr(training, "captured", lambda *given: captures.append(given) or real(*given))
    weights = []
    for worth in (WORTH_CAPTURING, SETTINGS.steps + 1):
        monkeypatch.setattr(module, "WORTH_CAPTURING", worth)
        network = build_network(micro, (1, 4, 4), 2, seed=1).cuda()
        generator = torch.Generator().manual_seed(1)
        chain = personal_chain(NoiseSchedule("linear", 1000))
        train_denoiser(network, chain, CleanImages(stripes, 1.0), SETTINGS, generator)
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    untrained = build_network(micro, (1, 4, 4), 2, seed=1).cuda()
    start = torch.cat([p.detach().flatten() for p in untrained.parameters()])
    assert len(captures) == 1
    assert (weights[0] - weights[1]).norm() < 0.02 * (weights[1] - start).norm()
