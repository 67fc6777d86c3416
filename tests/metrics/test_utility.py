"""Downstream utility: good samples teach a classifier, wrong ones do not, and they help where images lack."""

from __future__ import annotations

import pytest
import torch

from fedpdiff.metrics import Downstream, feature_training
from fedpdiff.types import LabelledImages


def stripes(labels: torch.Tensor, seed: int, shown: torch.Tensor | None = None) -> LabelledImages:
    """One bright row per class (``shown``: another class's row than the label says), under pixel noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = 20 * torch.randn(len(labels), 1, 8, 8, generator=generator)
    pixels[torch.arange(len(labels)), 0, labels if shown is None else shown] += 180
    return LabelledImages((pixels + 40).clamp(0, 255).to(torch.uint8), labels)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_training, "STEPS", 60)


LABELS = torch.arange(200) % 4
REAL = stripes(LABELS, 1)


def test_samples_that_show_their_classes_are_of_use() -> None:
    good = Downstream(stripes(LABELS, 2), None, 4, seed=1)
    wrong = Downstream(stripes(LABELS, 2, shown=(LABELS + 1) % 4), None, 4, seed=1)
    assert good.alone(REAL) > 0.95
    assert wrong.alone(REAL) < 0.2
    assert good.added(REAL) is None


def test_samples_help_a_client_that_lacks_a_class() -> None:
    own = stripes(LABELS[LABELS != 3], 3)
    alone = Downstream(own, None, 4, seed=1).alone(REAL.of_classes([3]))
    helped = Downstream(stripes(LABELS, 2), own, 4, seed=1).added(REAL.of_classes([3]))
    assert alone == 0
    assert helped > 0.9


def test_without_samples_there_is_no_number() -> None:
    nothing = stripes(LABELS, 2).select(torch.zeros(0, dtype=torch.int64))
    assert Downstream(nothing, None, 4, seed=1).alone(REAL) is None
