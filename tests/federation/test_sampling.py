"""The samples of a run: what precision its networks are evaluated in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fedpdiff.config import RunConfig
from fedpdiff.federation.agreement import Agreement
from fedpdiff.federation.networks import Trainer
from fedpdiff.federation.sampling import Sampler
from fedpdiff.types import LabelledImages


def test_the_precision_is_that_of_sampling_too(
    run_config: Callable[..., RunConfig], agreement: Agreement
) -> None:
    names = tuple(map(str, range(10)))
    changes = {"samples_per_class": 2, "global_sampling_steps": 3, "personal_sampling_steps": 3}
    drawn = {}
    for precision in ("auto", "float32", "bfloat16"):
        config = run_config(device="cpu", precision=precision, **changes)
        trainer = Trainer(config, agreement.mechanism, agreement.centre, names)
        halves = trainer.empty_global_half(), trainer.untrained(("client-0", "personal"))
        seen: list[torch.dtype] = []
        for half in halves:
            half.network.conv_in.register_forward_hook(
                lambda _, __, found, seen=seen: seen.append(found.dtype)
            )
        samples, view = Sampler(config, len(names), ("client-0",)).two_stage(*halves)
        drawn[precision] = samples.images.float()
        assert set(seen) == {torch.bfloat16 if precision == "bfloat16" else torch.float32}
        assert len(samples) == len(view) == 20
    assert torch.equal(drawn["auto"], drawn["float32"])
    off = (drawn["bfloat16"] - drawn["float32"]).abs().mean()
    assert 0 < off < 2  # of 256


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_both_halves_train_and_sample_on_a_gpu(
    run_config: Callable[..., RunConfig], agreement: Agreement
) -> None:
    names = tuple(map(str, range(10)))
    steps = {"personal_steps": 60, "global_steps": 60, "batch_size": 16, "samples_per_class": 2}
    config = run_config(device="cuda", personal_base="gaussian", global_base="gaussian", **steps)
    trainer = Trainer(config, agreement.mechanism, agreement.centre, names)
    generator, labels = torch.Generator().manual_seed(1), torch.arange(200) % 10
    pixels = torch.randint(0, 256, (200, *config.image_shape), generator=generator, dtype=torch.uint8)
    personal = trainer.personal(LabelledImages(pixels, labels), ("client-0", "personal"))
    uploads = torch.randn(200, *config.image_shape, generator=generator)
    halves = trainer.global_half(uploads, labels), personal
    assert {half.device.type for half in halves} == {"cuda"}
    sampler = Sampler(config, len(names), ("client-0",))
    samples, view = sampler.two_stage(*halves)
    assert len(samples) == len(view) == 20
    assert samples.images.float().std() > 1
