"""Samples on the disk: ``<name>.npz`` with ``images`` and ``labels``, written batch by batch."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch

from fedpdiff.types import LabelledImages


class SampleFile:
    """Writes samples as they are made, so that no more than a batch of them is in memory.

    The file appears whole when the block ends, and not at all when it ends with an error.

    Parameters
    ----------
    path
        The file, which ends in ``.npz``; its folder is made.
    labels
        Of all images that will be written, int64, shape (N,).
    image_shape
        (C, H, W).

    Raises
    ------
    ValueError
        At the end of the block, when more or fewer than N images were written.
    """

    def __init__(self, path: Path, labels: torch.Tensor, image_shape: tuple[int, ...]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._part = path, path.with_suffix(".npz.part")
        self._labels = labels.numpy().astype(np.int64)
        self._image_shape = image_shape
        self._written = 0

    def __enter__(self) -> Self:
        self._zip = zipfile.ZipFile(self._part, "w", allowZip64=True)
        self._entry = self._zip.open("images.npy", "w", force_zip64=True)
        shape = (len(self._labels), *self._image_shape)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._entry, header)
        return self

    def write(self, images: torch.Tensor) -> None:
        """Append images, uint8, shape (n, C, H, W)."""
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self._image_shape:
            raise ValueError(f"images are {images.dtype} of shape {tuple(images.shape)}")
        self._entry.write(images.numpy().tobytes())
        self._written += len(images)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with suppress(OSError, ValueError):  # on a full disk closing fails as well
                self._entry.close()
                self._zip.close()
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._entry.close()
        with self._zip.open("labels.npy", "w") as entry:
            np.lib.format.write_array(entry, self._labels)
        self._zip.close()
        if self._written != len(self._labels):
            raise ValueError(f"{self._written} images were written, not {len(self._labels)}")
        self._part.replace(self._path)


def save_samples(folder: Path, name: str, images: LabelledImages) -> None:
    """Write samples as ``<name>.npz`` with ``images`` (uint8) and ``labels`` (int64)."""
    with SampleFile(folder / f"{name}.npz", images.labels, tuple(images.images.shape[1:])) as file:
        file.write(images.images)
