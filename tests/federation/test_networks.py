"""Networks of a run: the threads that compute them, and what a half is told beside its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedpdiff.config import RunConfig
from fedpdiff.federation.networks import Trainer
from fedpdiff.federation.protocol import Mechanism
from fedpdiff.types import LabelledImages


def test_all_libraries_use_the_threads_that_are_set() -> None:
    """In a process of its own: the number stays for whatever runs after."""
    code = (
        "import json, torch\nfrom threadpoolctl import threadpool_info\n"
        "from fedpdiff.federation.networks import use_threads\n"
        "counts = lambda: [torch.get_num_threads(), *(pool['num_threads'] for pool in threadpool_info())]\n"
        "told = []\n"
        "for threads in (3, 0, 1):\n    use_threads(threads)\n    told.append(counts())\n"
        "print(json.dumps(told))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    three, left, one = json.loads(output)
    assert len(three) > 2  # torch and two libraries of linear algebra
    assert set(three) == {3} and left == three
    assert set(one) == {1}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_personal_half_knows_which_classes_it_never_saw(
    dropout: float, run_config: Callable[..., RunConfig], agreed: Callable[..., Mechanism]
) -> None:
    config = run_config(personal_steps=1, batch_size=2, warmup_steps=0, device="cpu", label_dropout=dropout)
    mechanism = agreed(8, list(config.image_shape))
    trainer = Trainer(config, mechanism, np.zeros(config.image_shape), tuple("0123"))
    images = LabelledImages(torch.zeros(3, *config.image_shape, dtype=torch.uint8), torch.tensor([0, 2, 2]))
    personal = trainer.personal(images, ("client", 0, "personal"))
    assert personal.config.unseen == ([1, 3] if dropout else [])


def test_every_personal_half_is_guided_and_no_global_one(
    run_config: Callable[..., RunConfig], agreed: Callable[..., Mechanism]
) -> None:
    config = run_config(guidance_scale=1.5, personal_steps=1, batch_size=2, warmup_steps=0, device="cpu")
    trainer = Trainer(
        config, agreed(8, list(config.image_shape)), np.zeros(config.image_shape), tuple("0123")
    )
    images = LabelledImages(torch.zeros(3, *config.image_shape, dtype=torch.uint8), torch.tensor([0, 2, 2]))
    assert trainer.personal(images, ("client", 0, "personal")).config.guidance_scale == 1.5
    assert trainer.untrained(("client", 0)).config.guidance_scale == 1.5
    assert trainer.empty_global_half().config.guidance_scale == 1.0
