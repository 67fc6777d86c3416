"""Two-stage sampling at its best, direction by direction: PFDM's Theorem 5.2 for images that are not white.

A class is Gaussian around its mean, with the variances of a :class:`~fedpdiff.advice.spectrum.Spectrum`; its
denoisers are affine in the image, the best ones that the images at hand allow. In a direction of variance
lambda, with noise of variance s2 at the hand-off, the personal half follows the hint by

    f = sqrt(lambda / (lambda + s2)) = 1 / sqrt(1 + s^2),    s^2 = s2 / lambda,

with a sampler that adds no noise, as the default one (f^2 with one that does). So an error of the client's
own class mean counts (1 - f)^2 and one of the global half's f^2; of the variance (1 - f^2)^2 and f^4. With
equal variances this is Theorem 5.2: with s^2 the own part rises and the global part falls, and the gain is at
least (s^2+1)/(2s^2+1)^2 of what local-only costs (tests/theory measures it). Distances are squared
2-Wasserstein distances to the true class in units of C^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from fedpdiff.advice.spectrum import Spectrum, effective

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Variance of the noise on one value, in units of C^2: in uploads, and where the personal half begins."""

    upload: float
    hand_off: float


@dataclass(frozen=True)
class Distances:
    """Expected squared distance of one rare class to the truth, by who made the samples."""

    local: float
    pfdm: float
    endless: float  # PFDM with uploads without end
    oracle: float
    centralised: float

    def gain(self, distance: float) -> float:
        """Return the share of local-only's distance that is taken away."""
        return 1 - distance / self.local

    @property
    def gap_closed(self) -> float | None:
        """Share of the way from local-only to centralised; None where there is no way to go."""
        way = self.local - self.centralised
        return (self.local - self.pfdm) / way if way > 0.01 * self.local else None


@dataclass(frozen=True)
class _Knowledge:
    """What one half knows of a class, by direction.

    Squared error of its mean, how far that is kept from being pulled to the mean of all classes (0 to 1), and
    the squared distance that its error in the variance costs.
    """

    mean: Array
    kept: Array
    variance: Array


def distances(spectrum: Spectrum, noise: Noise, few: int, pooled: float) -> Distances:
    """Return the expected distances for a class.

    Parameters
    ----------
    spectrum
        Of the images.
    noise
        Of the uploads.
    few
        Images of the class at the client, at least 1.
    pooled
        Uploads of the class, from all clients.
    """
    within = spectrum.within
    own = _clean(spectrum, few)
    everything = _clean(spectrum, pooled)
    shared = _noisy(spectrum, noise.upload, pooled)
    perfect = _Knowledge(np.zeros_like(within), np.ones_like(within), np.zeros_like(within))
    follow = np.sqrt(within / (within + noise.hand_off))
    nothing = np.zeros_like(within)
    return Distances(
        local=_distance(spectrum, own, own, nothing),
        pfdm=_distance(spectrum, own, shared, follow),
        endless=_distance(spectrum, own, perfect, follow),
        oracle=_distance(spectrum, own, perfect, np.sqrt(within / (within + noise.upload))),
        centralised=_distance(spectrum, everything, everything, nothing),
    )


def _distance(spectrum: Spectrum, own: _Knowledge, shared: _Knowledge, follow: Array) -> float:
    """Return the distance of samples that follow a hint by ``follow`` in each direction, 0 to 1."""
    rest = 1 - follow
    pulled = (rest * (1 - own.kept) + follow * (1 - shared.kept)) ** 2 * spectrum.between
    mean = pulled + rest**2 * own.mean + follow**2 * shared.mean
    spread = (1 - follow**2) ** 2 * own.variance + follow**4 * shared.variance
    return float((mean + spread).sum())


def _clean(spectrum: Spectrum, images: float) -> _Knowledge:
    """Return what clean images of a class tell of it; with very few its variance is lost altogether."""
    error = spectrum.within / images
    kept = _share(spectrum.between, error)
    relative = (1 + spectrum.directions) / (4 * images)
    return _Knowledge(kept**2 * error, kept, spectrum.within * relative / (1 + relative))


def _noisy(spectrum: Spectrum, noise: float, uploads: float) -> _Knowledge:
    """Return what uploads of a class tell of it.

    Relative to a direction's own variance, its estimate errs by ((lambda + s2) / lambda)^2 d / N: above 1,
    and the direction unseen, where lambda is below the threshold of :func:`directions_seen`.
    """
    total = spectrum.within + noise
    error = total / uploads
    kept = _share(spectrum.between, error)
    relative = (total / spectrum.within) ** 2 * (1 + effective(total)) / (4 * uploads)
    return _Knowledge(kept**2 * error, kept, spectrum.within * relative / (1 + relative))


def _share(signal: Array, error: Array) -> Array:
    """Return how far a mean is kept, not pulled towards that of all classes, by the best linear estimate."""
    return np.divide(signal, signal + error, out=np.zeros_like(signal), where=signal > 0)


def class_mean_error(spectrum: Spectrum, noise: float, images: float) -> float:
    """Return the squared standard error of a class mean over the variance between class means.

    In the directions in which class means differ; below about 1 the mean tells the class from the others.
    ``noise``: variance on one value, 0 for clean images.
    """
    coarse = spectrum.between > 0
    return float((spectrum.within[coarse] + noise).sum() / images / spectrum.between.sum())


def directions_seen(variances: Array, noise: float, images: float) -> int:
    """Return in how many directions the covariance of ``images`` noisy images shows more than noise.

    ``variances``: of the clean images, shape (d,).
    A direction of variance lambda stands out of white noise of variance s2 in d values only above
    s2 sqrt(d / N) (Baik, Ben Arous & Peche 2005; Paul 2007).
    """
    return int((variances > noise * math.sqrt(len(variances) / images)).sum())


def theorem_5_2_share(s_squared: float) -> float:
    """Return (s^2+1)/(2s^2+1)^2, the form of the gain over local-only in PFDM's Theorem 5.2."""
    return (s_squared + 1) / (2 * s_squared + 1) ** 2


def recognised(spectrum: Spectrum, noise: Noise, pooled: float, classes: int) -> float:
    """Return the share of samples recognised as a class of which the client has no image at all.

    The client's personal half knows the other classes, and takes lambda + beta for the variance of a
    direction, beta that between class means. So samples of the wanted class lie around a point between the
    centre of the others and the true mean. Recognised is what is nearest to the wanted one of K equidistant
    means.
    """
    known = spectrum.within + spectrum.between
    kept = _share(spectrum.between, (spectrum.within + noise.upload) / pooled)
    weight = spectrum.between / spectrum.between.sum()
    follow = float((weight * kept * np.sqrt(known / (known + noise.hand_off))).sum())
    place = follow * classes / (classes - 1) - 1 / (classes - 1)
    spread = float((weight * spectrum.within).sum()) ** 0.5
    between = float(spectrum.between.sum()) ** 0.5
    distance = place * between * (classes / (classes - 1)) ** 0.5 / spread
    z = np.linspace(-9, 9, 2001)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return float(np.trapezoid(density * ndtr(z + distance) ** (classes - 1), z))
