"""Exactly rounded Gaussian integers, N = round(sigma Z), from the operating system's randomness.

For an integer m, m + round(sigma Z) = round(m + sigma Z): the release is post-processing of the real-valued
Gaussian mechanism, whatever the precision of this machine's floats. Drawing N needs a uniform U in [0, 1)
compared with the boundaries F_k = P(|N| <= k) = erf((k + 1/2) / (sigma sqrt 2)), and U is drawn only as far
as needed:

1. 20 bits decide almost always (a table says so: no boundary lies in or near that interval);
2. else 62 bits, compared with the boundaries in double precision, decide unless U is within 2^-40 of one;
3. else 64 more bits at a time, compared in arbitrary precision, until no boundary lies in the interval.

So the distribution has no table or float error that delta would have to pay for; what remains is trust in the
operating system's generator. Magnitudes beyond ``_LIMIT`` count as ``_LIMIT``, which int16 saturation hides.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple, Protocol

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from fedpdiff.errors import PrivacyError

_SHORT = 20  # bits of U in the first stage
_LONG = 62  # bits of U in the second stage; fits int64 with room for sentinels
_MARGIN = 2.0**-40  # a thousand times the error of the boundaries in double precision
_UNDECIDED = np.int16(-32768)
_LIMIT = 1 << 16
_CHUNK = 1 << 19  # values per step: 2 MiB of random bytes
LARGEST_SIGMA = 4096.0


class NoiseSource(Protocol):
    """Where random bytes come from."""

    @property
    def kind(self) -> Literal["secure", "seeded"]:
        """Return the setting's name for this source."""

    @property
    def private(self) -> bool:
        """Return whether noise made from these bytes may be called private."""

    def read(self, count: int) -> bytes:
        """Return ``count`` random bytes, never given before."""


class SecureNoise:
    """The operating system's cryptographic generator; the only source of a private release."""

    kind: ClassVar[Literal["secure"]] = "secure"
    private: ClassVar[bool] = True

    def read(self, count: int) -> bytes:
        """Return fresh bytes from the operating system."""
        return os.urandom(count)


class SeededNoise:
    """A repeatable generator for simulation. NOT PRIVATE: whoever knows the seed removes the noise."""

    kind: ClassVar[Literal["seeded"]] = "seeded"
    private: ClassVar[bool] = False

    def __init__(self, seed: int, *purpose: int | str) -> None:
        """Make the stream of this seed and purpose, e.g. ``SeededNoise(1, "release", "client", 0)``."""
        from fedpdiff.rng import numpy_generator

        self._generator = numpy_generator(seed, "release noise, not private", *purpose)

    def read(self, count: int) -> bytes:
        """Return the next bytes of the stream."""
        return self._generator.bytes(count)


class _Tables(NamedTuple):
    short: NDArray[np.int16]  # index: sign bit, then 20 bits of U; value: N or _UNDECIDED
    boundaries: NDArray[np.int64]  # 2^62 F_k in double precision, with a sentinel on each side


@lru_cache(maxsize=4)
def _tables(sigma: float) -> _Tables:
    count = int(10 * sigma) + 10  # beyond 10 sigma every boundary is within 2^-40 of 1
    exact = erf((np.arange(count) + 0.5) / (sigma * np.sqrt(2.0)))
    exact = exact[exact < 1 - _MARGIN / 2]
    cells = 1 << _SHORT
    magnitude = np.searchsorted(exact, np.arange(cells) / cells).astype(np.int16)
    for shifted in (exact - _MARGIN, exact + _MARGIN):
        cell = np.floor(shifted * cells).astype(np.int64)
        magnitude[cell[(cell >= 0) & (cell < cells)]] = _UNDECIDED
    magnitude[-1] = _UNDECIDED  # the tail: infinitely many boundaries
    negative = np.where(magnitude == _UNDECIDED, _UNDECIDED, -magnitude)
    one = 2.0**_LONG
    boundaries = np.concatenate([[-(2**60)], (exact * one).astype(np.int64), [2**_LONG]])
    return _Tables(np.concatenate([magnitude, negative]).astype(np.int16), boundaries)


def _count_below(u: mpmath.mpf, sigma: float) -> int:
    """Return the number of boundaries F_0, F_1, ... that are at most ``u``, up to ``_LIMIT``."""
    scale = 1 / (mpmath.mpf(sigma) * mpmath.sqrt(2))
    return bisect_right(range(_LIMIT), u, key=lambda k: mpmath.erf((k + mpmath.mpf(0.5)) * scale))


def _magnitude_exactly(word: int, sigma: float, noise: NoiseSource) -> int:
    """Return |N| for U in [word, word + 1) 2^-62, drawing more bits while a boundary lies in it."""
    bits = _LONG
    while True:
        with mpmath.workprec(bits + 64):
            low = _count_below(mpmath.ldexp(word, -bits), sigma)
            high = _count_below(mpmath.ldexp(word + 1, -bits), sigma)
        if low == high:
            return low
        word = (word << 64) | int.from_bytes(noise.read(8), "little")
        bits += 64


def _undecided(index: NDArray[np.int64], sigma: float, noise: NoiseSource) -> NDArray[np.int32]:
    """Return N where sign and 20 bits of U (``index``) did not decide, by 42 more, or as many as it takes."""
    boundaries = _tables(sigma).boundaries
    fresh = np.frombuffer(noise.read(8 * len(index)), np.uint64) >> np.uint64(64 - (_LONG - _SHORT))
    prefix = index & ((1 << _SHORT) - 1)
    words = (prefix << (_LONG - _SHORT)) | fresh.astype(np.int64)
    above = np.searchsorted(boundaries, words, side="right")
    magnitude = (above - 1).astype(np.int32)  # one sentinel below
    margin = int(_MARGIN * 2**_LONG)
    close = (words - boundaries[above - 1] <= margin) | (boundaries[above] - words <= margin)
    for i in np.flatnonzero(close):
        magnitude[i] = _magnitude_exactly(int(words[i]), sigma, noise)
    return np.where(index >> _SHORT, -magnitude, magnitude).astype(np.int32)


def rounded_gaussian(sigma: float, count: int, noise: NoiseSource) -> NDArray[np.int32]:
    """Draw independent integers distributed exactly as round(sigma Z), Z ~ N(0, 1).

    Parameters
    ----------
    sigma
        Standard deviation before rounding, in grid steps, in (0, 4096].
    count
        How many.
    noise
        Where the random bytes come from.

    Returns
    -------
    int32 array of shape (count,)

    Raises
    ------
    PrivacyError
        When sigma is out of range.
    """
    if not 0 < sigma <= LARGEST_SIGMA:
        raise PrivacyError(
            f"the noise has standard deviation {sigma!r} grid steps, but must be in (0, {LARGEST_SIGMA:g}]"
        )
    short = _tables(sigma).short
    result = np.empty(count, np.int32)
    for start in range(0, count, _CHUNK):
        part = result[start : start + _CHUNK]
        index = np.frombuffer(noise.read(4 * len(part)), np.uint32) >> np.uint32(31 - _SHORT)
        value = short[index]
        part[:] = value
        open_ = np.flatnonzero(value == _UNDECIDED)
        part[open_] = _undecided(index[open_].astype(np.int64), sigma, noise)
    return result
