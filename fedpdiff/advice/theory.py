"""Two-stage sampling at its best, direction by direction: PFDM's Theorem 5.2 for images that are not white.

A class is Gaussian around its mean, with the variances of a :class:`~fedpdiff.advice.spectrum.Spectrum`; its
denoisers are affine in the image, the best ones that the images at hand allow. In a direction of variance
lambda, with noise of variance s2 at the hand-off, the personal half follows what it is handed by

    f = sqrt(lambda / (lambda + s2)) = 1 / sqrt(1 + s^2),    s^2 = s2 / lambda,

with a sampler that adds no noise, as the default one. The first stage knows mean and shape of a class from
the client's own images, as the personal half does, and from the uploads (:mod:`fedpdiff.diffusion.joining`):
of the mean these get their best share, at most f of the samples, of the shape the share by which they are
worth more images, f^2 of it. Distances are squared 2-Wasserstein distances to the true class in units of C^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from fedpdiff.advice.spectrum import Spectrum

Array = NDArray[np.float64]

SHARED = 30.0
"""Images that the other classes count as where the shape of a class is learnt."""
COARSE = 64
"""Directions that uploads tell the shape of a class in."""
DOUBT = 2.0
"""How often the error of an own mean counts when it is weighed against that of the uploads' mean."""


@dataclass(frozen=True)
class Noise:
    """Variance of the noise on one value, in units of C^2.

    In uploads, where the personal half begins, and where it begins with a class it has no image of.
    """

    upload: float
    hand_off: float
    unseen: float


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
        Uploads of the class, from all clients, at least ``few``. Those of the own images are no news.
    """
    within, nothing = spectrum.within, np.zeros_like(spectrum.within)
    own = _clean(spectrum, few)
    everything = _clean(spectrum, pooled)
    others = max(pooled - few, 1e-9)
    amplified = 1 + few / others  # N / (N - n): the noise on own uploads counts as well
    error = (within + noise.upload * amplified) / others
    own_error = DOUBT * within / few
    follow, follow_upload = (np.sqrt(within / (within + s2)) for s2 in (noise.hand_off, noise.upload))
    share = np.minimum(follow, own_error / (own_error + error))
    coarse = np.arange(len(within)) < COARSE
    seen = within**2 / (within**2 + ((within + noise.upload) ** 2 - within**2) * amplified)
    worth = np.where(coarse, others * seen, 1e-12)
    shape = follow**2 / (1 + (few + SHARED) / worth)
    theirs = _Given(share, error, shape, _shape_error(spectrum, worth))
    best = _Given(follow, nothing, np.where(coarse, follow**2, 0), nothing)
    none = _Given(nothing, nothing, nothing, nothing)
    return Distances(
        local=_distance(spectrum, own, none),
        pfdm=_distance(spectrum, own, theirs),
        endless=_distance(spectrum, own, best),
        oracle=_distance(spectrum, own, _Given(follow_upload, nothing, follow_upload**2, nothing)),
        centralised=_distance(spectrum, everything, none),
    )


@dataclass(frozen=True)
class _Given:
    """What samples have from the uploads, by direction.

    Shares of their mean and of their shape, 0 to 1, and the squared distances that their errors cost. What is
    not theirs is the client's own.
    """

    mean: Array
    mean_error: Array
    shape: Array
    shape_error: Array


def _distance(spectrum: Spectrum, own: _Knowledge, given: _Given) -> float:
    """Return the distance to the truth of samples of who knows this, and was given that."""
    pulled = ((1 - given.mean) * (1 - own.kept)) ** 2 * spectrum.between
    mean = pulled + (1 - given.mean) ** 2 * own.mean + given.mean**2 * given.mean_error
    shape = (1 - given.shape) ** 2 * own.variance + given.shape**2 * given.shape_error
    return float((mean + shape).sum())


def _clean(spectrum: Spectrum, images: float) -> _Knowledge:
    """Return what clean images of a class tell of it, and those of the other classes of its shape."""
    error = spectrum.within / images
    kept = _share(spectrum.between, error)
    return _Knowledge(kept**2 * error, kept, _shape_error(spectrum, images + SHARED))


def _shape_error(spectrum: Spectrum, images: float | Array) -> Array:
    """Return the squared distance that the error of the variances of so many images costs, by direction."""
    relative = 1 + spectrum.directions
    return spectrum.within * relative / (relative + 4 * images)


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
    weight = spectrum.between / spectrum.between.sum()
    follow = np.sqrt(known / (known + noise.unseen))
    error = follow**2 * (spectrum.within + noise.upload) / pooled
    place = float((weight * follow).sum()) * classes / (classes - 1) - 1 / (classes - 1)
    spread = float((weight * (spectrum.within + error)).sum()) ** 0.5
    between = float(spectrum.between.sum()) ** 0.5
    distance = place * between * (classes / (classes - 1)) ** 0.5 / spread
    z = np.linspace(-9, 9, 2001)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return float(np.trapezoid(density * ndtr(z + distance) ** (classes - 1), z))
