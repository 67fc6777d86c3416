"""Private images among the public ones are found, however they were saved; other images are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from fedpdiff.data import overlap
from fedpdiff.data.overlap import count_shared
from fedpdiff.types import LabelledImages


def labelled(images: np.ndarray) -> LabelledImages:
    pixels = torch.from_numpy(np.ascontiguousarray(images[:, None], dtype=np.uint8))
    return LabelledImages(pixels, torch.zeros(len(images), dtype=torch.int64))


def jpeg(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))


DIGITS = load_digits().images * 15


@pytest.mark.parametrize("chunk", [1 << 24, 100])
def test_digits_of_others_are_not_taken_for_ones_own(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_CHUNK_VALUES", chunk)
    assert count_shared(labelled(DIGITS[:300]), labelled(DIGITS[300:])) == 0
    assert count_shared(labelled(DIGITS[:300]), labelled(DIGITS[290:])) == 10


def test_images_saved_again_are_found() -> None:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (40, 8, 8)), np.ones((4, 4)))
    again = np.stack([jpeg(image) for image in smooth])
    assert not any(np.array_equal(a, b) for a, b in zip(smooth, again, strict=True))
    assert count_shared(labelled(smooth), labelled(again)) == 40
    assert count_shared(labelled(smooth), labelled(again[:, ::-1])) == 0  # flipped: not found


def test_nothing_is_shared_with_nothing() -> None:
    assert count_shared(labelled(DIGITS[:5]), labelled(DIGITS[:0])) == 0
    assert count_shared(labelled(DIGITS[:0]), labelled(DIGITS[:5])) == 0
