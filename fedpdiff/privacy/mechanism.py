"""The mechanism: clip to a ball around a public centre, scale, round to integers, add integer noise.

This is the forward diffusion x_t0 = sqrt(abar_t0) u + sqrt(1 - abar_t0) z (Ho et al. 2020, equation 4) on a
grid of 2^-12, with u the clipped, centred image. The norm that the accounting relies on is checked in exact
integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.gaussian_noise import NoiseSource, rounded_gaussian

STEP = 2.0**-12
_SATURATION = (
    32767  # +-8 in pixel units; at least 7.7 standard deviations of noise fit beside any pixel's signal
)
_CHUNK_VALUES = 1 << 20


def clip(pixels: ArrayLike, centre: ArrayLike, radius: float) -> NDArray[np.float64]:
    """Return the clipped, centred images u = (x - c) min(1, C / |x - c|).

    Parameters
    ----------
    pixels
        float, shape (N, C, H, W), in [-1, 1].
    centre
        Public; broadcastable to one image, in [-1, 1].
    radius
        C, the largest L2 norm of one u, over all channels and positions, in pixel units.

    Returns
    -------
    float64 array of the shape of ``pixels``; the projection onto the ball, minus its centre.

    Raises
    ------
    PrivacyError
        When shapes, ranges or the radius are wrong, or a pixel is not finite.
    """
    x = np.asarray(pixels, np.float64)
    c = np.asarray(centre, np.float64)
    if x.ndim != 4:
        raise PrivacyError(f"pixels have shape {x.shape}, but must have shape (N, C, H, W)")
    if not 0 < radius < math.inf:
        raise PrivacyError(f"clip is {radius!r}, but must be a positive, finite norm in pixel units")
    for name, values in (("pixels", x), ("the centre", c)):
        # A NaN fails this comparison as well.
        if values.size and not np.abs(values).max() <= 1 + 1e-6:
            raise PrivacyError(
                f"{name} must be finite and in [-1, 1]; scale uint8 images with to_pixels first"
            )
    try:
        u = x - np.broadcast_to(c, x.shape[1:])
    except ValueError as error:
        raise PrivacyError(f"the centre has shape {c.shape}, but must fit images of {x.shape[1:]}") from error
    norm = np.sqrt(np.einsum("nchw,nchw->n", u, u))
    u *= np.minimum(1.0, radius / np.maximum(norm, 1e-300))[:, None, None, None]
    return u


def largest_norm(centre: ArrayLike, shape: tuple[int, int, int]) -> float:
    """Return the largest |x - c| of any image of ``shape`` (C, H, W): the radius that clips nothing."""
    corner = 1 + np.abs(np.broadcast_to(np.asarray(centre, np.float64), shape))
    return float(np.sqrt((corner * corner).sum()))


def _signal(u: NDArray[np.float64], radius: float, alpha_bar_t0: float) -> NDArray[np.int64]:
    """Round sqrt(abar) u to the grid; every integer norm is at most sqrt(abar) C / step, exactly."""
    scale = math.sqrt(alpha_bar_t0) / STEP
    m = np.trunc(u * scale).astype(np.int64).reshape(len(u), -1)  # toward zero: the norm does not grow
    # Rounded down by 1e-12, far more than double precision can be wrong by.
    limit = math.floor((scale * radius) ** 2 * (1 - 1e-12))
    energy = np.einsum("nd,nd->n", m, m)
    for i in np.flatnonzero(energy > limit):  # practically never: only where rounding lost nothing
        while np.dot(m[i], m[i]) > limit:
            j = int(np.argmax(np.abs(m[i])))
            m[i, j] -= np.sign(m[i, j])
    if np.any(np.einsum("nd,nd->n", m, m) > limit):
        raise PrivacyError(
            "a clipped image exceeds the norm that the guarantee rests on; nothing was released"
        )
    return m.reshape(u.shape)


def signal_integers(
    pixels: ArrayLike, centre: ArrayLike, radius: float, alpha_bar_t0: float
) -> NDArray[np.int16]:
    """Return the integer signal m, the clipped, centred images on the grid, before any noise. PRIVATE.

    Parameters
    ----------
    pixels, centre, radius
        As for :func:`clip`.
    alpha_bar_t0
        abar after t0 forward steps, in (0, 1).

    Returns
    -------
    int16 array of the shape of ``pixels``, in steps of 2^-12, at most 2 sqrt(abar) / step in size (pixels and
    centre lie in [-1, 1]); every image's L2 norm is at most sqrt(abar) C / step, exactly.

    Raises
    ------
    PrivacyError
        When an argument is out of range.
    """
    mu_of(alpha_bar_t0, radius)  # checks both ranges
    x = np.asarray(pixels)
    result = np.empty(x.shape, np.int16)
    for part in _chunks(x.shape):
        result[part] = _signal(clip(x[part], centre, radius), radius, alpha_bar_t0)
    return result


def noise_sigma(alpha_bar_t0: float) -> float:
    """Return the standard deviation sqrt(1 - abar) of the noise in grid steps, before its rounding."""
    return math.sqrt(1 - alpha_bar_t0) / STEP


def _chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Divide the rows into parts whose temporary arrays stay small."""
    rows = max(1, _CHUNK_VALUES // max(1, math.prod(shape[1:])))
    return (slice(start, start + rows) for start in range(0, shape[0], rows))


def release_with_signal(
    pixels: ArrayLike, centre: ArrayLike, radius: float, alpha_bar_t0: float, noise: NoiseSource
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Return :func:`release_integers` and, for the health check alone, the PRIVATE signal beneath them.

    Their difference is the noise that was drawn (where nothing saturated), so the second array is as secret
    as the images: it is never stored, sent or logged.
    """
    signal = signal_integers(pixels, centre, radius, alpha_bar_t0)
    sigma = noise_sigma(alpha_bar_t0)
    result = np.empty_like(signal)
    for part in _chunks(signal.shape):
        m = signal[part]
        y = m + rounded_gaussian(sigma, m.size, noise).reshape(m.shape)
        result[part] = np.clip(y, -_SATURATION, _SATURATION)
    return result, signal


def release_integers(
    pixels: ArrayLike, centre: ArrayLike, radius: float, alpha_bar_t0: float, noise: NoiseSource
) -> NDArray[np.int16]:
    """Return the noisy integers y = saturate(m + round(sigma Z)); each call is one more release.

    Parameters
    ----------
    pixels, centre, radius, alpha_bar_t0
        As for :func:`signal_integers`.
    noise
        ``SecureNoise()``; a seeded source only in a simulation that says NOT PRIVATE.

    Returns
    -------
    int16 array of the shape of ``pixels``, in steps of 2^-12. mu = 2 C sqrt(abar) / sqrt(1 - abar) exactly: m
    is an integer vector of bounded norm and y a function of m + sigma Z (rounding and saturating it).

    Raises
    ------
    PrivacyError
        When an argument is out of range.
    """
    return release_with_signal(pixels, centre, radius, alpha_bar_t0, noise)[0]


def decode_integers(integers: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return float32 values sqrt(abar) u + sqrt(1 - abar) z of a release, up to the grid of 2^-12."""
    return integers.astype(np.float32) * np.float32(STEP)
