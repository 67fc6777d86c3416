"""A network as training calls it: what autocast leaves, that a capture changes nothing, what may fail."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from fedpdiff.diffusion import training
from fedpdiff.diffusion.batches import CleanImages
from fedpdiff.diffusion.chain import personal_chain
from fedpdiff.diffusion.evaluated import WORTH_CAPTURING, Evaluated, captured
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
    def without_a_compiler(module: torch.nn.Module) -> torch.nn.Module:
        def fail(*_: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("Failed to find C compiler.\nmore of it")

        module.forward = fail  # type: ignore[method-assign]
        return module

    monkeypatch.setattr(torch, "compile", without_a_compiler)
    evaluated = Evaluated(build_network(micro, (1, 4, 4), 2, seed=1), False)
    with pytest.raises(RunError, match=r"compile = true: .*Failed to find C compiler\.\); .*compile = false"):
        captured(evaluated, batch("cpu")[0], compiled=True)


def test_a_checkpoint_does_not_ask_whether_the_network_was_compiled() -> None:
    assert repr(dataclasses.replace(SETTINGS, compiled=True)) == repr(SETTINGS)


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
        monkeypatch.setattr(training, "WORTH_CAPTURING", worth)
        network = build_network(micro, (1, 4, 4), 2, seed=1).cuda()
        generator = torch.Generator().manual_seed(1)
        chain = personal_chain(NoiseSchedule("linear", 1000))
        train_denoiser(network, chain, CleanImages(stripes, 1.0), SETTINGS, generator)
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    untrained = build_network(micro, (1, 4, 4), 2, seed=1).cuda()
    start = torch.cat([p.detach().flatten() for p in untrained.parameters()])
    assert len(captures) == 1
    assert (weights[0] - weights[1]).norm() < 0.02 * (weights[1] - start).norm()
