"""What the server can check of an upload's noise: it refuses, to protect the client, what has too little.

An honest value is sqrt(abar) u + sqrt(1 - abar) z, then rounded for the wire. Whatever the images u are, the
energy in any fixed directions is at least that of the noise alone: signal only adds energy (a non-central
chi-square is stochastically larger than the central one). So a chi-square lower tail needs no knowledge of
the images, and its false-alarm rate holds for all of them. Directions: the upper half of each channel's
cosine spectrum, where images have little energy to hide missing noise behind.

The rounding is part of the noise: :func:`noise_floor` is the least variance it leaves beside any pixel value.

An upload is looked at part by part and only sums are kept, so that memory does not grow with it.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.special import ndtr
from scipy.stats import chi2

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.wire import quantiser

FALSE_ALARM = 1e-6  # of all tests of one upload together
_LARGEST_PIXEL = 2.0  # |u_j|: pixels and centre are in [-1, 1]
_PAIR_ROWS = 1000  # every two of the first so many rows are compared (rows arrive shuffled)
_PAIR_VALUES = 1 << 23  # what is kept of them: all fine structure up to 3 x 64 x 64, an even choice above
_PART_VALUES = 1 << 20  # values looked at at a time
_LEAST_RATIO = 0.05  # a threshold below this share of the noise would test the wire's steps, not the noise


def _cell_probabilities(alpha_bar: float, bits: int) -> NDArray[np.float64]:
    """Return P(level | pixel signal), shape (signals, levels), for signals 0 .. 2 sqrt(abar)."""
    signal = np.linspace(0, _LARGEST_PIXEL * math.sqrt(alpha_bar), 1001)[:, None]
    below = ndtr((quantiser(bits)[0] - signal) / math.sqrt(1 - alpha_bar))
    return np.diff(below, axis=1, prepend=0.0, append=1.0)


@lru_cache
def noise_floor(alpha_bar: float, bits: int) -> float:
    """Return the least variance of a decoded value, over all signals that a pixel can carry.

    It is close to 1 - abar, and 0, meaning that nothing can be checked, where the wire's steps are too coarse
    for this noise (below half of 1 - abar: 8 bits below a standard deviation of about 0.02, 2 bits below
    about 0.65).
    """
    levels = quantiser(bits)[1]
    share = _cell_probabilities(alpha_bar, bits)
    mean = share @ levels
    least = float(np.min(share @ levels**2 - mean**2))
    return least if least >= 0.5 * (1 - alpha_bar) else 0.0


def _high(height: int, width: int) -> NDArray[np.bool_]:
    """Return which coefficients are the upper half of a channel's cosine spectrum."""
    return np.arange(height)[:, None] / height + np.arange(width) / width >= 1


def _fine_structure(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the coefficients of the upper half of each channel's cosine spectrum, shape (N, k)."""
    spectrum = dctn(values, axes=(2, 3), norm="ortho")
    return spectrum[:, :, _high(*values.shape[2:])].reshape(len(values), -1)


def _tail(energy: float, degrees: int, tests: int) -> float:
    """Return the (Bonferroni) chance of so little energy; 1 if the test would look below the wire's steps."""
    if degrees == 0 or chi2.ppf(FALSE_ALARM / 4 / tests, degrees) < _LEAST_RATIO * degrees:
        return 1.0
    return min(1.0, tests * float(chi2.cdf(energy, degrees)))


def _least_pair(rows: NDArray[np.float64]) -> float:
    """Return the smallest squared distance between two different rows."""
    energy = np.einsum("nk,nk->n", rows, rows)
    distance = energy[:, None] + energy - 2 * rows @ rows.T
    np.fill_diagonal(distance, np.inf)
    return max(0.0, float(distance.min()))


class NoiseCheck:
    """Judges the noise of one upload, which is added part by part.

    Parameters
    ----------
    images
        How many images the upload has.
    image_shape
        (C, H, W).
    alpha_bar
        abar after t0 steps, as agreed.
    bits
        Of the wire: 8, 4 or 2.

    Raises
    ------
    PrivacyError
        When ``alpha_bar`` is not between 0 and 1.
    """

    def __init__(self, images: int, image_shape: tuple[int, ...], alpha_bar: float, bits: int) -> None:
        if not 0 < alpha_bar < 1:
            raise PrivacyError(f"alpha_bar is {alpha_bar!r}, but must lie strictly between 0 and 1")
        self._shape = tuple(image_shape)
        self._alpha_bar = alpha_bar
        self._floor = noise_floor(alpha_bar, bits)
        self._degrees = self._shape[0] * int(_high(*self._shape[1:]).sum())
        self._images = 0
        self._total, self._least = 0.0, math.inf
        self._pixel = np.zeros(self._shape)
        compared = max(1, min(images, _PAIR_ROWS))
        kept = min(self._degrees, _PAIR_VALUES // compared)
        # Any fixed directions serve; these are evenly spread over channels and frequencies.
        self._directions = np.arange(kept) * self._degrees // max(1, kept)
        self._first = np.empty((compared, kept))
        self._repeats_tell = _repeats_tell(images, self._shape, alpha_bar, bits)
        self._hashes = bytearray()

    def add(self, values: NDArray[np.float32]) -> None:
        """Look at the next images of the upload, float32 (n, C, H, W), decoded.

        Raises
        ------
        PrivacyError
            When a value is not finite or the shape is another.
        """
        if values.shape[1:] != self._shape or not np.isfinite(values).all():
            raise PrivacyError(
                f"an upload must hold finite values of shape (N, C, H, W), but has shape {values.shape}"
            )
        if self._repeats_tell:
            for row in values:
                # Of 128 bits: images that differ practically never share a hash, equal ones always do.
                self._hashes += hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        if self._floor and len(values):
            fine = _fine_structure(values)
            energy = np.einsum("nk,nk->n", fine, fine, dtype=np.float64) / self._floor
            self._total += float(energy.sum())
            self._least = min(self._least, float(energy.min()))
            self._pixel += np.einsum("nchw,nchw->chw", values, values, dtype=np.float64) / self._floor
            wanted = self._first[self._images : self._images + len(values)]
            wanted[:] = fine[: len(wanted), self._directions]
        self._images += len(values)

    def p_values(self) -> dict[str, float]:
        """Return what :func:`noise_p_values` returns, for the images added so far."""
        if not self._floor or not self._images:
            return {}
        p = {
            "in total": _tail(self._total, self._images * self._degrees, 1),
            "in one image": _tail(self._least, self._degrees, self._images),
            "at one pixel": _tail(float(self._pixel.min()), self._images, self._pixel.size),
        }
        first = self._first[: self._images]
        if len(first) > 1:
            pairs = len(first) * (len(first) - 1) // 2
            p["between two images"] = _tail(
                _least_pair(first) / (2 * self._floor), len(self._directions), pairs
            )
        return p

    def judge(self) -> None:
        """Refuse the images added so far if they have less noise than agreed.

        Raises
        ------
        PrivacyError
            As :func:`check_noise_level`.
        """
        advice = "delete this upload, and check the client's release code, clip, schedule and t0"
        hashes = np.frombuffer(self._hashes, "S16")
        if len(np.unique(hashes)) < len(hashes):
            raise PrivacyError(
                f"an upload holds the same noisy image twice, so its noise is not independent; {advice}"
            )
        for where, p in self.p_values().items():
            if p < FALSE_ALARM / 4:
                raise PrivacyError(
                    f"an upload has less noise {where} than alpha_bar {self._alpha_bar:.6g} promises "
                    f"(an honest upload has so little with probability {p:.1e}); {advice}"
                )


def _repeats_tell(images: int, shape: tuple[int, ...], alpha_bar: float, bits: int) -> bool:
    """Return whether honest noise would practically never make two of so many images equal."""
    alike = float((_cell_probabilities(alpha_bar, bits) ** 2).sum(axis=1).max())
    # Chance of any equal pair among n honest rows: at most n^2 alike^d.
    return 2 * math.log(max(1, images)) + math.prod(shape) * math.log(alike) <= math.log(FALSE_ALARM / 1e4)


def _checked(values: NDArray[np.float32], alpha_bar: float, bits: int) -> NoiseCheck:
    if values.ndim != 4:
        raise PrivacyError(
            f"an upload must hold finite values of shape (N, C, H, W), but has shape {values.shape}"
        )
    check = NoiseCheck(len(values), values.shape[1:], alpha_bar, bits)
    rows = part_rows(values.shape[1:])
    for start in range(0, len(values), rows):
        check.add(values[start : start + rows])
    return check


def part_rows(image_shape: tuple[int, ...]) -> int:
    """Return how many images are looked at at a time, so that their temporary arrays stay small."""
    return max(1, _PART_VALUES // max(1, math.prod(image_shape)))


def noise_p_values(values: NDArray[np.float32], alpha_bar: float, bits: int) -> dict[str, float]:
    """Return, for each test, the chance that an honest upload has so little noise energy.

    Parameters
    ----------
    values
        float32, shape (N, C, H, W): a decoded upload.
    alpha_bar
        abar after t0 steps, as agreed.
    bits
        Of the wire: 8, 4 or 2.

    Returns
    -------
    dict
        ``in total``, ``in one image``, ``at one pixel``, ``between two images`` (noise used twice); each
        corrected for the number of images, pixels or pairs it looked at. Empty when :func:`noise_floor` is 0.
    """
    return _checked(values, alpha_bar, bits).p_values()


def check_noise_level(values: NDArray[np.float32], alpha_bar: float, bits: int) -> None:
    """Refuse an upload with less noise than agreed; an honest one is refused with probability at most 1e-6.

    Parameters are those of :func:`noise_p_values`. At 8 bits the bound is exact up to the wire's small steps;
    at 4 and 2 bits it rests on the values' being bounded, which makes little energy rarer than for a
    Gaussian.

    Raises
    ------
    PrivacyError
        When the noise is too weak in total, in one image, at one pixel, or shared by two images, or an image
        comes twice; the message says which.
    """
    _checked(values, alpha_bar, bits).judge()
