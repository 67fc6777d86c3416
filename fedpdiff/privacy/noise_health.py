"""The release tests its own noise before anything leaves: too weak, clamped, correlated, or used twice.

The noise N = release - signal is known exactly here (saturation aside, at 7.7 standard deviations), so every
test is a statement about independent rounded Gaussians and its p-value holds whatever the images are. The
tests together alarm falsely with probability at most ``FALSE_ALARM``.

Refusing a release because of its noise is itself a dependence on the noise, and costs privacy: the guarantee
holds with delta + FALSE_ALARM. For that, and for nothing worse, every p-value also has to hold when one image
is replaced, that is when one row of the noise is shifted by any fixed amount: then

    P(M(x) in S) <= P(M0(x) in S, passes as x' too) + P(alarm with one row shifted)
                 <= e^epsilon P(M(x') in S) + delta + FALSE_ALARM.

So no test looks for too much noise in one image, and statistics over several images leave out the one that
contributes most. For several images replaced at once (one person's) that is not proven, though shifts of a
few standard deviations in all are far from any test's threshold. And a failed check must never draw again by
itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import noise_tails as tails
from fedpdiff.privacy.noise_reuse import repeats

FALSE_ALARM = 1e-12  # of all tests of one release together; delta pays for it
LEAST_SIGMA = 2.0  # grid steps; below, rounding dominates and there is no privacy to check
TESTS = (
    "too weak in total",
    "too weak in one image",
    "too weak at one pixel",
    "too weak in one cosine pattern",
    "too weak in the mean of all images",
    "equally strong in every image",
    "equally strong at every pixel",
    "without large values",
    "alike in neighbouring columns",
    "alike in neighbouring rows",
    "alike in neighbouring channels",
    "mixed across pixels",
    "shared by all images",
    "alike in two images",
    "used twice",
)
_THRESHOLD = FALSE_ALARM / len(TESTS)
_CHUNK_VALUES = 1 << 18  # fits a processor's second-level cache as float32
_SAMPLED_ROWS = 512  # for tests whose cost grows faster than the data
_PAIRED_ROWS = 384
_MIXED_PIXELS = 512


@dataclass(frozen=True)
class HealthReport:
    """What the tests of one release's noise found.

    Parameters
    ----------
    p_values
        Per test of ``TESTS``, a bound on the chance that sound noise looks so bad. They depend on the noise
        that was drawn: they stay on the client.
    """

    p_values: dict[str, float]

    @property
    def failed(self) -> tuple[str, ...]:
        """Return the names of the tests that sound noise would practically never fail."""
        return tuple(name for name, p in self.p_values.items() if not p >= _THRESHOLD)

    @property
    def ok(self) -> bool:
        """Return whether every test passed."""
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        """Return what a certificate may say: nothing that depends on the noise but pass or fail."""
        return {
            "ok": self.ok,
            "failed": list(self.failed),
            "tests": list(self.p_values),
            "false_alarm": FALSE_ALARM,
        }


@dataclass(frozen=True, eq=False)
class _Sums:
    """What one pass over all the noise gathers: shapes (N,), (d,), (d,), and a number."""

    row_energy: NDArray[np.float64]
    pixel_energy: NDArray[np.float64]
    pixel_sum: NDArray[np.float64]
    largest: float


def check_noise(release: NDArray[np.int16], signal: NDArray[np.int16], sigma: float) -> HealthReport:
    """Test the noise of a release that has not left yet.

    Parameters
    ----------
    release
        int16, shape (N, C, H, W), N at least 1: what would be released.
    signal
        The same shape: the integer signal beneath it, from
        :func:`~fedpdiff.privacy.mechanism.signal_integers` or ``release_with_signal``.
    sigma
        Promised standard deviation in grid steps, at least 2:
        :func:`~fedpdiff.privacy.mechanism.noise_sigma`.

    Returns
    -------
    HealthReport
        Not ``ok`` with probability at most ``FALSE_ALARM`` when the noise is sound, for any images.

    Raises
    ------
    PrivacyError
        When shapes or types do not fit, or sigma is below 2 grid steps.
    """
    _check_arguments(release, signal, sigma)
    sample = _noise(release, signal, _spread(len(release), _SAMPLED_ROWS))
    p = _strength(_gather(release, signal), sigma)
    p |= _neighbours(sample, sigma) | _patterns(sample, sigma) | _mixing(sample, sigma)
    p |= _alike(_noise(release, signal, _half_spread(len(release), _PAIRED_ROWS)), sigma)
    p["used twice"] = 0.0 if repeats(release, signal, sigma, _THRESHOLD / 2) else 1.0
    return HealthReport({name: p[name] for name in TESTS})


def _check_arguments(release: NDArray[np.int16], signal: NDArray[np.int16], sigma: float) -> None:
    if release.ndim != 4 or release.size == 0 or release.shape != signal.shape:
        raise PrivacyError(
            f"release and signal have shapes {release.shape} and {signal.shape}, but must have one shape "
            "(N, C, H, W) with at least one image"
        )
    if release.dtype != np.int16 or signal.dtype != np.int16:
        raise PrivacyError(f"release and signal must be int16, but are {release.dtype} and {signal.dtype}")
    if not LEAST_SIGMA <= sigma < math.inf:
        raise PrivacyError(
            f"the noise has standard deviation {sigma!r} grid steps, but must have at least {LEAST_SIGMA:g}: "
            "t0 is so small that the release would practically show the images; use a larger one"
        )


def _gather(release: NDArray[np.int16], signal: NDArray[np.int16]) -> _Sums:
    rows, d = len(release), release[0].size
    row_energy, pixel_energy, pixel_sum = np.empty(rows), np.zeros(d), np.zeros(d)
    largest = 0.0
    step = max(1, _CHUNK_VALUES // d)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        noise = _noise(release, signal, part).reshape(-1, d)
        ones, square = np.ones(len(noise), np.float32), noise * noise
        row_energy[part] = square @ np.ones(d, np.float32)
        pixel_energy += ones @ square
        pixel_sum += ones @ noise
        largest = max(largest, float(square.max()))
    return _Sums(row_energy, pixel_energy, pixel_sum, math.sqrt(largest))


def _noise(
    release: NDArray[np.int16], signal: NDArray[np.int16], rows: slice | NDArray[np.int64]
) -> NDArray[np.float32]:
    noise = release[rows].astype(np.float32)  # exact: at most 2^16 in size
    noise -= signal[rows]
    return noise


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def _half_spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Return the first rows, which were drawn one after the other, and as many from everywhere."""
    return np.union1d(np.arange(min(count, wanted // 2)), _spread(count, wanted // 2))


def _strength(sums: _Sums, sigma: float) -> dict[str, float]:
    """Noise has at least the promised energy everywhere, varies as noise does, and has its large values."""
    n, d = len(sums.row_energy), len(sums.pixel_energy)
    row_step, pixel_step = math.sqrt(d) / 2, math.sqrt(n) / 2
    mean_energy = float(np.dot(sums.pixel_sum, sums.pixel_sum)) / n
    longest = math.sqrt(float(sums.row_energy.max()))
    shared = max(0.0, math.sqrt(mean_energy * n) - longest) ** 2 / max(1, n - 1) / tails.variance(sigma)
    return {
        "too weak in total": tails.weakest(float(sums.row_energy.sum()), n * d, sigma, math.sqrt(n * d) / 2),
        "too weak in one image": tails.weakest(float(sums.row_energy.min()), d, sigma, row_step, n),
        "too weak at one pixel": tails.weakest(float(sums.pixel_energy.min()), n, sigma, pixel_step, d),
        "too weak in the mean of all images": tails.weakest(mean_energy, d, sigma, math.sqrt(n * d) / 2),
        "equally strong in every image": tails.all_below(float(sums.row_energy.max()), d, sigma, row_step, n),
        "equally strong at every pixel": tails.all_below(
            float(sums.pixel_energy.max()), n, sigma, pixel_step, d
        ),
        "without large values": tails.all_values_within(sums.largest, sigma, n * d),
        "shared by all images": tails.quadratic(shared - d, math.sqrt(d), 1.0),
    }


def _neighbours(noise: NDArray[np.float32], sigma: float) -> dict[str, float]:
    """Neighbouring values are uncorrelated, over all images but the one that contributes most."""
    p = {}
    pairs = {
        "columns": (noise[:, :, :, 1:], noise[:, :, :, :-1]),
        "rows": (noise[:, :, 1:], noise[:, :, :-1]),
        "channels": (noise[:, 1:], noise[:, :-1]),
    }
    for name, (before, after) in pairs.items():
        products = np.einsum("nchw,nchw->n", before, after)
        form = (abs(float(products.sum())) - float(np.abs(products).max())) / tails.variance(sigma)
        # A sum of that many products has a matrix of norm sqrt(number / 2) and eigenvalues of at most 1.
        bound = 2 * tails.quadratic(form, math.sqrt(before.size / 2), 1.0)
        p[f"alike in neighbouring {name}"] = min(1.0, bound)
    return p


def _patterns(noise: NDArray[np.float32], sigma: float) -> dict[str, float]:
    """Every cosine pattern of every channel has its energy, so nothing was smoothed or subtracted away."""
    n, channels, height, width = noise.shape
    spectrum = _cosines(height) @ (noise @ _cosines(width).T)
    energy = np.einsum("nchw,nchw->chw", spectrum, spectrum)
    # For one image and pattern w, |<w, rounding>| <= |w|_1 / 2 <= sqrt(H W) / 2.
    rounding = math.sqrt(n * height * width) / 2
    weakest = tails.weakest(float(energy.min()), n, sigma, rounding, channels * height * width)
    return {"too weak in one cosine pattern": weakest}


def _cosines(size: int) -> NDArray[np.float32]:
    """Return the orthonormal cosine basis, one row per frequency."""
    basis = dct(np.eye(size), axis=0, norm="ortho")
    return np.asarray(basis, np.float32)


def _mixing(noise: NDArray[np.float32], sigma: float) -> dict[str, float]:
    """What half of the images says of the covariance of pixels does not hold in the other half."""
    n, d = len(noise), noise[0].size
    pixels = noise.reshape(n, d)[:, _spread(d, _MIXED_PIXELS)]
    learning, testing = pixels[: n // 2], pixels[n // 2 :]
    covariance = learning.T @ learning
    np.fill_diagonal(covariance, 0)
    norm = float(np.linalg.norm(covariance))
    if norm == 0:
        return {"mixed across pixels": 1.0}
    # Given the first half, this is a quadratic form of the second without diagonal: its mean is 0.
    forms = np.einsum("nd,nd->n", testing @ (covariance / np.float32(norm)), testing)
    form = (float(forms.sum()) - float(np.abs(forms).max())) / tails.variance(sigma)
    return {"mixed across pixels": tails.quadratic(form, math.sqrt(len(testing)), 1.0)}


def _alike(noise: NDArray[np.float32], sigma: float) -> dict[str, float]:
    """No two images have correlated noise."""
    rows = noise.reshape(len(noise), -1) / np.float32(math.sqrt(tails.variance(sigma)))
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    products = np.abs(rows @ rows.T)
    np.fill_diagonal(products, 0)
    # Given one row, its product with another is linear in that one; the longer row covers either choice.
    standardised = products / np.maximum(np.maximum(length[:, None], length), np.float32(1e-30))
    pairs = len(rows) * (len(rows) - 1) // 2
    return {"alike in two images": tails.linear(float(standardised.max()), pairs) if pairs else 1.0}
