"""Federated DPDM: clipping by image, noise for the budget, and a ledger that counts every step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.denoiser import to_arrays
from fedpdiff.errors import PrivacyError
from fedpdiff.methods import dpdm_fedavg
from fedpdiff.methods.base import LocalRound, PrivateTraining
from fedpdiff.methods.dpdm_fedavg import DPDMFedAvg
from fedpdiff.privacy.dp_sgd import StepLedger, Steps, noise_multiplier, spent
from fedpdiff.privacy.gaussian_noise import SecureNoise, SeededNoise
from fedpdiff.types import LabelledImages, to_pixels

pytest.importorskip("opacus")

MakeNetwork = Callable[[], UNet2DModel]


class Everybody(SeededNoise):
    """Lets every image take part in every step: the uniform numbers are all 0."""

    def read(self, count: int) -> bytes:
        return bytes(count)


@pytest.fixture
def private_round(
    local_round: Callable[..., LocalRound], images: LabelledImages, tmp_path: Path
) -> Callable[..., LocalRound]:
    """Return a function that makes a client's private training of these steps out of 6."""

    def make(network: UNet2DModel, noise: Any, span: range = range(1, 7), **changes: Any) -> LocalRound:
        private = PrivateTraining(images, 0.0, 2, noise, tmp_path / "ledger", (10.0, 1e-5))
        local = local_round(network, span, torch.Generator().manual_seed(5))
        return dataclasses.replace(local, private=dataclasses.replace(private, **changes))

    return make


def method(**changes: Any) -> DPDMFedAvg:
    settings = {"batch-size": 8, "personal-steps": 6, "rounds": 1, "epsilon": 10.0, "dp-copies": 3} | {
        key.replace("_", "-"): value for key, value in changes.items()
    }
    return DPDMFedAvg(RunConfig.parse(settings))


# -- clipping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_sums_are_of_gradients_clipped_image_by_image(
    copies: int, clip: float, make_network: MakeNetwork, private_round: Any, images: LabelledImages
) -> None:
    """Against one backward pass per image; a small norm that always binds and a large one that never does.

    The network has an attention layer before a convolution, where one rule of Opacus' own gives zeros.
    """
    network = make_network()
    local = private_round(network, SecureNoise())
    rows = torch.tensor([0, 5, 7])
    state = local.generator.get_state()
    sampled = dpdm_fedavg.per_image_gradients(network)
    sums, _ = method(dp_copies=copies, dp_clip=clip)._clipped_sums(sampled, local, local.private, rows)
    sampled.to_standard_module()
    local.generator.set_state(state)
    torch.rand(3, generator=local.generator)  # who hides its label: nobody
    start = to_pixels(images.images[rows]).repeat_interleave(copies, 0)
    t = torch.randint(local.chain.first, local.chain.last + 1, (len(start),), generator=local.generator)
    noise = torch.randn(start.shape, generator=local.generator)
    expected = [torch.zeros_like(parameter) for parameter in network.parameters()]
    for image, row in enumerate(rows.tolist()):
        own = slice(image * copies, (image + 1) * copies)
        x_t = local.chain.diffuse(start[own], t[own], noise[own])
        labels = images.labels[row].repeat(copies)
        output = network(x_t, t[own] - 1, class_labels=labels).sample
        loss = local.chain.losses(output, start[own], x_t, t[own], noise[own]).mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        factor = min(1.0, clip / float(norm))
        expected = [total + factor * gradient for total, gradient in zip(expected, gradients, strict=True)]
    for found, wanted in zip(sums, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-4 * clip if clip < 1 else 1e-5, rtol=1e-3)


def test_one_image_moves_the_sum_by_no_more_than_the_clip_norm(
    make_network: MakeNetwork, private_round: Any
) -> None:
    network = make_network()
    local = private_round(network, SecureNoise())
    sampled = dpdm_fedavg.per_image_gradients(network)
    for row in range(4):
        rows = torch.tensor([row])
        sums, _ = method(dp_clip=0.01)._clipped_sums(sampled, local, local.private, rows)
        assert float(torch.stack([total.norm() for total in sums]).norm()) <= 0.01 * (1 + 1e-5)
    nobody, loss = method()._clipped_sums(sampled, local, local.private, torch.zeros(0, dtype=torch.int64))
    assert loss is None
    assert all(not total.any() for total in nobody)


# -- noise ---------------------------------------------------------------------------------------------------


def test_a_step_adds_the_noise_that_accounting_asks_for(
    make_network: MakeNetwork, private_round: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of standard deviation sigma C / batch; false-alarm rate 1e-6 (4.9 of the statistic's own)."""
    seen: list[torch.Tensor] = []

    class Watching(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            seen.append(torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]]))

    wanted = method(dp_clip=1e-9)  # gradients vanish beside the noise
    monkeypatch.setattr(type(wanted), "make_optimizer", staticmethod(lambda p, rate: Watching(p, lr=rate)))
    wanted.fit(private_round(make_network(), SecureNoise()))
    values = torch.cat(seen).double() * 8 / 1e-9
    _, sigma = wanted.plan(24)
    share = float(values.square().mean()) / sigma**2
    assert len(seen) == 6
    assert abs(share - 1) < 4.9 * (2 / len(values)) ** 0.5 + 24 / sigma**2 / len(values) * 8
    half = float((0.5 * values).square().mean()) / sigma**2
    assert abs(half - 1) > 0.5


def test_secure_noise_never_repeats_and_seeded_noise_does(
    make_network: MakeNetwork, private_round: Any
) -> None:
    def once(noise: Any) -> dict[str, np.ndarray]:
        network = make_network()
        method().fit(private_round(network, noise, limits=(100.0, 1e-5)))
        return {name: array.copy() for name, array in to_arrays(network).items()}

    secure = [once(SecureNoise()) for _ in range(2)]
    seeded = [once(SeededNoise(3, "a")) for _ in range(2)]
    assert all(np.array_equal(seeded[0][name], seeded[1][name]) for name in seeded[0])
    assert not np.array_equal(secure[0]["conv_in.weight"], secure[1]["conv_in.weight"])


def test_who_takes_part_is_drawn_by_poisson_sampling() -> None:
    """False-alarm rate 1e-6: 4.9 standard deviations of a binomial number."""
    count, rate = 100_000, 0.13
    chosen = dpdm_fedavg._poisson(count, rate, SecureNoise())
    assert abs(len(chosen) - count * rate) < 4.9 * (count * rate * (1 - rate)) ** 0.5
    assert len(dpdm_fedavg._poisson(50, 1.0, SecureNoise())) == 50
    assert len(dpdm_fedavg._poisson(50, 0.5, Everybody(1))) == 50


# -- accounting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epsilon", "sigma"), [(10, 2.51), (1, 18.1)])
def test_noise_of_dpdms_own_settings(epsilon: float, sigma: float) -> None:
    """MNIST: 4,500 steps at a rate of 1/15, delta 1e-5, Renyi accounting; and as another library counts."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.rdp import RdpAccountant

    found = noise_multiplier(epsilon, 1e-5, 1 / 15, 4500)
    assert found == pytest.approx(sigma, rel=0.01)
    reached = spent([Steps(found, 1 / 15, 4500)], 1e-5)
    assert 0.99 * epsilon < reached <= epsilon
    step = PoissonSampledDpEvent(1 / 15, GaussianDpEvent(found))
    theirs = RdpAccountant().compose(SelfComposedDpEvent(step, 4500)).get_epsilon(1e-5)
    assert reached == pytest.approx(theirs, rel=0.02)


def test_rounds_spend_what_one_training_spends() -> None:
    rate, steps = 0.1, 120
    sigma = noise_multiplier(5.0, 1e-5, rate, steps)
    parts = [Steps(sigma, rate, 40)] * 3
    assert spent(parts, 1e-5) == pytest.approx(spent([Steps(sigma, rate, steps)], 1e-5))
    assert spent([], 1e-5) == 0


def test_the_ledger_refuses_steps_beyond_the_budget(tmp_path: Path) -> None:
    sigma = noise_multiplier(5.0, 1e-5, 0.1, 100)
    ledger, entry = StepLedger(tmp_path / "l"), Steps(sigma, 0.1, 50)
    assert ledger.charge(entry, 5.0, 1e-5) < ledger.charge(entry, 5.0, 1e-5) <= 5.0
    for _ in range(2):
        with pytest.raises(PrivacyError, match=r"above epsilon = 5; nothing was trained"):
            StepLedger(tmp_path / "l").charge(entry, 5.0, 1e-5)
    assert StepLedger(tmp_path / "l").history() == [entry, entry]
    assert (tmp_path / "l" / "dp-sgd.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text", ["nonsense\n", json.dumps({"steps": 3}) + "\n", '{"steps": "many"}\n', "[]\n"]
)
def test_a_damaged_ledger_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "dp-sgd.jsonl").write_text(text)
    with pytest.raises(PrivacyError, match="damaged"):
        StepLedger(tmp_path).charge(Steps(1.0, 0.1, 1), 5.0, 1e-5)


def test_an_impossible_budget_is_refused() -> None:
    with pytest.raises(PrivacyError, match="too small"):
        noise_multiplier(1e-9, 1e-12, 1.0, 10**6)


def test_a_round_is_charged_before_it_is_trained(
    make_network: MakeNetwork, private_round: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> Any:
        assert len(StepLedger(tmp_path / "ledger").history()) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(DPDMFedAvg, "_clipped_sums", crash)
    with pytest.raises(KeyboardInterrupt):
        method().fit(private_round(make_network(), SecureNoise()))
    ((entry,)) = StepLedger(tmp_path / "ledger").history()
    assert entry.steps == 6
    assert entry.sample_rate == pytest.approx(8 / 24)
