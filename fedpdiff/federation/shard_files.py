"""A validated shard on the server's disk: codes and labels as they came, read a few images at a time."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedpdiff.errors import DataError
from fedpdiff.privacy.arrival import part_rows
from fedpdiff.privacy.wire import decode, unpack


@dataclass(frozen=True)
class Codes:
    """The codes of some images as the wire packs them: without gaps, so that an image may begin in mid-byte.

    Parameters
    ----------
    packed
        uint8, one-dimensional; may be memory-mapped.
    rows
        Number of images.
    image_shape
        (C, H, W).
    bits
        Per value: 8, 4 or 2.
    """

    packed: np.ndarray
    rows: int
    image_shape: tuple[int, ...]
    bits: int

    def decoded(self) -> Iterator[np.ndarray]:
        """Yield the decoded values in parts, float32 (n, C, H, W), each small however large the whole."""
        for first, last in self._parts():
            start, stop, skip = byte_range(first, last, self.image_shape, self.bits)
            yield decode_bytes(self.packed[start:stop], skip, last - first, self.image_shape, self.bits)

    def unpacked(self) -> Iterator[np.ndarray]:
        """Yield the codes in the same parts, one byte for each value."""
        pixels = int(np.prod(self.image_shape))
        for first, last in self._parts():
            start, stop, skip = byte_range(first, last, self.image_shape, self.bits)
            yield unpack(self.packed[start:stop], self.bits, skip + (last - first) * pixels)[skip:]

    def _parts(self) -> Iterator[tuple[int, int]]:
        size = part_rows(self.image_shape)
        return ((first, min(first + size, self.rows)) for first in range(0, self.rows, size))


def byte_range(first: int, last: int, image_shape: tuple[int, ...], bits: int) -> tuple[int, int, int]:
    """Return where images ``first`` .. ``last - 1`` begin and end in bytes, and how many values precede."""
    pixels, per_byte = int(np.prod(image_shape)), 8 // bits
    start = first * pixels // per_byte
    return start, -(-last * pixels // per_byte), first * pixels - start * per_byte


def decode_bytes(
    packed: np.ndarray, skip: int, rows: int, image_shape: tuple[int, ...], bits: int
) -> np.ndarray:
    """Return the float32 (rows, C, H, W) that bytes hold after ``skip`` values of other images."""
    values = decode(packed, bits, (len(packed) * (8 // bits),))
    return values[skip : skip + rows * int(np.prod(image_shape))].reshape(rows, *image_shape)


@dataclass(frozen=True)
class ShardFile:
    """One shard in a spool folder; it is there, whole, as soon as ``path`` is.

    Parameters
    ----------
    folder, number
        Of the spool, and which shard.
    rows, image_shape, bits
        As in :class:`Codes`.
    """

    folder: Path
    number: int
    rows: int
    image_shape: tuple[int, ...]
    bits: int

    @property
    def path(self) -> Path:
        """The codes' file; the labels lie beside it."""
        return self.folder / f"shard-{self.number:04d}.npy"

    @property
    def labels_path(self) -> Path:
        """The labels' file."""
        return self.folder / f"labels-{self.number:04d}.npy"

    def write(self, codes: np.ndarray, labels: np.ndarray) -> None:
        """Put codes, uint8, and labels, int64, on the disk: the codes last, and whole or not at all."""
        for path, dtype, array in ((self.labels_path, "<i8", labels), (self.path, "|u1", codes)):
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:
                file.write(_header(dtype, len(array)))
                file.write(np.ascontiguousarray(array, dtype).data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)

    def labels(self) -> np.ndarray:
        """Return the labels, int64 (rows,).

        Raises
        ------
        DataError
            When the file is missing or damaged.
        """
        with _opened(self.labels_path, "<i8", self.rows) as (file, _):
            return np.frombuffer(file.read(), "<i8").copy()

    def codes(self) -> Codes:
        """Return the codes, memory-mapped; let go of them soon, because pages that were read count as memory.

        Raises
        ------
        DataError
            When the file is missing or damaged.
        """
        with _opened(self.path, "|u1", self._bytes) as (file, header):
            packed = np.memmap(file, np.uint8, "r", offset=header, shape=(self._bytes,))
        return Codes(packed, self.rows, self.image_shape, self.bits)

    def read_images(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read and decode single images; of the file, nothing stays in this process's memory.

        Parameters
        ----------
        rows
            int, shape (n,): which of the shard's images, in any order.
        out
            float32, shape (n, C, H, W), to be filled.

        Raises
        ------
        DataError
            When the file is missing or damaged.
        """
        with _opened(self.path, "|u1", self._bytes) as (file, header):
            for place, row in enumerate(rows.tolist()):
                start, stop, skip = byte_range(row, row + 1, self.image_shape, self.bits)
                packed = np.frombuffer(os.pread(file.fileno(), stop - start, header + start), np.uint8)
                out[place] = decode_bytes(packed, skip, 1, self.image_shape, self.bits)[0]

    @property
    def _bytes(self) -> int:
        return byte_range(0, self.rows, self.image_shape, self.bits)[1]


@lru_cache(256)
def _header(dtype: str, size: int) -> bytes:
    """Return what a .npy file of so many values begins with."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": (size,)})
    return header.getvalue()


@contextmanager
def _opened(path: Path, dtype: str, size: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a .npy file behind its header, which is compared and never parsed; also give its length."""
    header = _header(dtype, size)
    try:
        with path.open("rb", buffering=0) as file:
            right = file.read(len(header)) == header
            if not right or os.fstat(file.fileno()).st_size != len(header) + size * np.dtype(dtype).itemsize:
                raise OSError("another file")
            yield file, len(header)
    except OSError as error:
        raise DataError(f"the upload's file {path.name} in {path.parent} is missing or damaged") from error
