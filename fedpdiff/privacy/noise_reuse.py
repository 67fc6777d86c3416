"""Noise used twice: the same run of integers, shifted or sign-flipped, at two places of one release.

Fresh noise practically never repeats: a run of w values equals another, or its negative, with probability at
most 2 p^w, where p = P(N = 0) is about 1e-4 for the usual sigma. So w of about 7 makes any repetition among
all pairs of places impossible, and finding one costs a sort of hashes. Comparing a share of the places is
enough when the *value* there decides which (the low bits of |N|): a copy of the noise is then sampled at the
same values, wherever it lies.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_PLACES = 1 << 16  # at most about so many places are hashed
_STEP = 1 << 18  # values looked at at a time
_CANDIDATES = 100  # pairs of equal hashes that are compared in full


def window_length(count: int, sigma: float, chance: float) -> int:
    """Return the least w for which any two of ``count`` windows agree with probability below ``chance``."""
    log_likeliest = math.log(math.erf(0.5 / (sigma * math.sqrt(2))))
    return max(1, math.ceil((math.log(chance) - 2 * math.log(max(2, count))) / log_likeliest))


def _hashed_windows(
    release: NDArray[np.int16], signal: NDArray[np.int16], row: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return where windows start, and one hash per window, the same for a window and its negative.

    They start at each image's first value, and where the low bits of the noise are 0.
    """
    count = release.size
    mask = np.int16((1 << max(0, math.ceil(math.log2(count / _PLACES)))) - 1)
    multipliers = np.random.default_rng(0).integers(0, 1 << 63, length, dtype=np.uint64) | np.uint64(1)
    places, hashes = [], []
    last = count - length + 1
    for first in range(0, last, _STEP):
        starts = min(_STEP, last - first)
        part = slice(first, first + starts + length - 1)
        # int16 may wrap around, which keeps the low bits and negation; equal hashes are looked at again.
        noise = release[part] - signal[part]
        chosen = (noise[:starts] & mask) == 0
        chosen[-first % row :: row] = True
        place = np.flatnonzero(chosen)
        total = np.zeros(len(place), np.uint64)
        for offset, multiplier in enumerate(multipliers):
            total += noise[offset:].take(place).astype(np.uint64) * multiplier  # modulo 2^64
        places.append(place + first)
        hashes.append(np.minimum(total, np.uint64(0) - total))
    return np.concatenate(places), np.concatenate(hashes)


def _agree(
    release: NDArray[np.int16], signal: NDArray[np.int16], pair: NDArray[np.int64], length: int
) -> bool:
    first, second = (
        release[place : place + length].astype(np.int64) - signal[place : place + length] for place in pair
    )
    return np.array_equal(first, second) or np.array_equal(first, -second)


def repeats(release: NDArray[np.int16], signal: NDArray[np.int16], sigma: float, chance: float) -> bool:
    """Return whether a run of noise occurs twice; fresh noise does so with probability below ``chance``.

    Parameters
    ----------
    release, signal
        int16, shape (N, C, H, W); the noise is their difference.
    sigma
        Of the noise before rounding, in grid steps.
    chance
        Above 0; decides how long a run must be.
    """
    length, row = window_length(release.size, sigma, chance), release[0].size
    release, signal = release.reshape(-1), signal.reshape(-1)
    if release.size <= length:
        return False
    places, hashes = _hashed_windows(release, signal, row, length)
    ordered = np.sort(hashes)
    if not np.any(ordered[1:] == ordered[:-1]):
        return False
    order = np.argsort(hashes, kind="stable")
    equal = np.flatnonzero(np.diff(hashes[order]) == 0)[:_CANDIDATES]
    return any(_agree(release, signal, places[order[i : i + 2]], length) for i in equal)
