"""Samples on the disk: whole or not at all, and never all of them in memory."""

from __future__ import annotations

import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from fedpdiff.sample_file import SampleFile, save_samples
from fedpdiff.types import LabelledImages

SHAPE = (3, 4, 4)


def test_numpy_reads_what_was_written_in_parts(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (7, *SHAPE), dtype=torch.uint8)
    labels = torch.arange(7)
    with SampleFile(tmp_path / "new" / "s.npz", labels, SHAPE) as file:
        for part in images.split(3):
            file.write(part)
    save_samples(tmp_path / "new", "whole", LabelledImages(images, labels))
    for name in ("s", "whole"):
        with np.load(tmp_path / "new" / f"{name}.npz") as found:
            assert set(found) == {"images", "labels"}
            np.testing.assert_array_equal(found["images"], images.numpy())
            assert found["images"].dtype == np.uint8 and found["labels"].dtype == np.int64
            np.testing.assert_array_equal(found["labels"], labels.numpy())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["s.npz", "whole.npz"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    save_samples(tmp_path, "s", LabelledImages(torch.ones(1, *SHAPE).to(torch.uint8), torch.zeros(1).long()))
    before = (tmp_path / "s.npz").read_bytes()
    with pytest.raises(KeyboardInterrupt), SampleFile(tmp_path / "s.npz", torch.arange(2), SHAPE):
        raise KeyboardInterrupt
    with (
        pytest.raises(ValueError, match="1 images were written, not 2"),
        SampleFile(tmp_path / "s.npz", torch.arange(2), SHAPE) as file,
    ):
        file.write(torch.zeros(1, *SHAPE, dtype=torch.uint8))
    with (
        pytest.raises(ValueError, match=r"images are torch\.float32"),
        SampleFile(tmp_path / "s.npz", torch.arange(2), SHAPE) as file,
    ):
        file.write(torch.zeros(2, *SHAPE))
    assert (tmp_path / "s.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


def test_a_full_disk_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        with pytest.raises(OSError), SampleFile(tmp_path / "s.npz", torch.arange(99_999), SHAPE) as file:
            for _ in range(99):
                file.write(torch.zeros(1000, *SHAPE, dtype=torch.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    part = torch.zeros(100, *SHAPE, dtype=torch.uint8)
    tracemalloc.start()
    with SampleFile(tmp_path / "s.npz", torch.zeros(200_000, dtype=torch.int64), SHAPE) as file:
        for _ in range(2000):
            file.write(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    labels, images = 200_000 * 8, 200_000 * 48
    assert (tmp_path / "s.npz").stat().st_size > images
    assert peak < 2 * labels + images / 4
