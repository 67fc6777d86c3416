"""The release on the wire: 8, 4 or 2 bits per value, packed into bytes. Pure post-processing of the integers.

A release looks like N(0, 1) per value when the noise dominates (abar_t0 small): 4 and 2 bits use the 16 or 4
levels with the least mean squared error for N(0, 1) (Lloyd-Max). Such levels shrink: E[Q(x) x] = 1 - D with D
the error, so decoding divides by 1 - D (Bussgang's gain); a small signal then keeps its size on average, and
what is added is uncorrelated noise of variance D / (1 - D). 8 bits are 255 equal steps on [-6, 6].

Away from N(0, 1) (small t0: the noise is narrow and the signal large) 8 bits still hold every value up to 5.6
standard deviations of noise beside any signal and add the same tiny noise, as long as the noise is wider than
a step (0.047); 4 and 2 bits then distort the signal, pixel by pixel, and saturate at +-2.8 and +-1.7: use 8
bits there.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from fedpdiff.errors import MessageError, PrivacyError
from fedpdiff.privacy.mechanism import STEP

Bits = Literal[8, 4, 2]
WIRE_BITS: tuple[int, ...] = (8, 4, 2)
_RANGE = 6.0


def _phi(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@lru_cache
def _lloyd_max(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return thresholds (count - 1), levels (count) and gain 1 - D of the best quantiser of N(0, 1)."""
    levels = np.linspace(-2, 2, count)
    for _ in range(5000):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        share = np.diff(ndtr(edges))
        better = -np.diff(_phi(edges)) / share  # the mean of N(0, 1) in each cell
        if np.abs(better - levels).max() < 1e-14:
            break
        levels = better
    gain = float((share * levels * levels).sum())  # E[Q^2] = E[Q x] = 1 - D
    return edges[1:-1], levels, gain


@lru_cache
def quantiser(bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return thresholds, shape (n - 1,), and decoded levels, shape (n,), of one width, in pixel units.

    Raises
    ------
    PrivacyError
        When ``bits`` is not 8, 4 or 2.
    """
    if bits not in WIRE_BITS:
        raise PrivacyError(f"wire-bits is {bits!r}, but must be 8, 4 or 2")
    if bits == 8:
        levels = np.linspace(-_RANGE, _RANGE, 255)
        return (levels[1:] + levels[:-1]) / 2, levels
    thresholds, levels, gain = _lloyd_max(2**bits)
    return thresholds, levels / gain


def added_noise_variance(bits: int) -> float:
    """Return the variance that rounding adds near N(0, 1): 0.0002 at 8 bits, 0.0096 at 4, 0.133 at 2."""
    levels = quantiser(bits)[1]
    if bits == 8:
        return float((levels[1] - levels[0]) ** 2 / 12)
    gain = _lloyd_max(2**bits)[2]
    return 1 / gain - 1


@lru_cache
def _codes(bits: int) -> NDArray[np.uint8]:
    """Return the code of every int16, indexed by its bit pattern read as uint16."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.int16) * STEP
    return np.searchsorted(quantiser(bits)[0], values, side="right").astype(np.uint8)


@lru_cache
def _values(bits: int) -> NDArray[np.float32]:
    """Return the decoded values of every byte, shape (256, 8 / bits); the first sits in the low bits."""
    levels = quantiser(bits)[1].astype(np.float32)
    shifts = np.arange(0, 8, bits)
    codes = (np.arange(256)[:, None] >> shifts) & (2**bits - 1)
    return levels[np.minimum(codes, len(levels) - 1)]


def encoded_size(count: int, bits: int) -> int:
    """Return the number of bytes that ``count`` values take."""
    return -(-count * bits // 8)


def codes(integers: NDArray[np.int16], bits: int) -> NDArray[np.uint8]:
    """Round a release to ``bits`` per value: one byte each, shape (size,), before :func:`encode` packs."""
    if integers.dtype != np.int16:
        raise PrivacyError(f"only the int16 integers of a release are encoded, not {integers.dtype}")
    return _codes(bits)[np.ascontiguousarray(integers).reshape(-1).view(np.uint16)]


def encode(integers: NDArray[np.int16], bits: int) -> NDArray[np.uint8]:
    """Round a release to ``bits`` per value and pack it.

    Parameters
    ----------
    integers
        int16 of any shape, as :func:`~fedpdiff.privacy.mechanism.release_integers` makes them.
    bits
        8, 4 or 2.

    Returns
    -------
    uint8 array of shape (ceil(size * bits / 8),)
    """
    unpacked = codes(integers, bits)
    if bits == 8:
        return unpacked
    per_byte = 8 // bits
    places = np.pad(unpacked, (0, -len(unpacked) % per_byte)).reshape(-1, per_byte)
    packed = places[:, 0].copy()
    for place in range(1, per_byte):
        packed |= places[:, place] << np.uint8(place * bits)
    return packed


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Return the ``count`` codes, one per byte, that :func:`encode` packed."""
    if bits == 8:
        return packed[:count]
    places = (packed[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8(2**bits - 1)
    return places.reshape(-1)[:count]


def decode(packed: NDArray[np.uint8], bits: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the float32 values, unbiased for a small signal, of an encoded release.

    Parameters
    ----------
    packed
        uint8, one-dimensional.
    bits
        8, 4 or 2, as encoded.
    shape
        Of the release, (N, C, H, W).

    Raises
    ------
    MessageError
        When the bytes are not as many as ``shape`` needs, or not of an encoded release.
    """
    count = math.prod(shape)
    values = _values(bits)
    if packed.dtype != np.uint8 or packed.shape != (encoded_size(count, bits),):
        raise MessageError(
            f"an upload of shape {shape} at {bits} bits must be uint8 of shape "
            f"({encoded_size(count, bits)},), but is {packed.dtype} of shape {packed.shape}"
        )
    if bits == 8 and packed.size and packed.max() == 255:
        raise MessageError("an 8-bit upload holds the code 255, which no release has")
    return values[packed].reshape(-1)[:count].reshape(shape)
