"""How improbable a statistic of the noise is: bounds that hold for rounded Gaussians, not only for Gaussians.

A value of the noise is N = round(sigma Z). Two facts carry every bound here, each for any number of values:

- |N - sigma Z| <= 1/2, so a vector of k values has |N| >= sigma |Z| - sqrt(k) / 2. Lower tails of an energy
  are therefore chi-square tails, taken half a step per value further up.
- E exp(l N) <= exp(l^2 v / 2) with v = sigma^2 + 1/12 (up to a factor 1 + exp(-2 pi^2 sigma^2)): a linear
  form, or a quadratic form without diagonal, has moments no larger than with Gaussians of variance v.
  Replacing the values one at a time shows it, since such a form is linear in each. Upper tails are then
  those of Laurent & Massart (2000, Lemma 1): for weights w of squared Gaussians,
  P(form - mean > 2 |w|_2 s + 2 max(w) s^2) <= exp(-s^2).
"""

from __future__ import annotations

import math

from scipy.special import erfc
from scipy.stats import chi2


def variance(sigma: float) -> float:
    """Return the variance sigma^2 + 1/12 of round(sigma Z)."""
    return sigma * sigma + 1 / 12


def _gaussian_energy(energy: float, sigma: float, rounding: float) -> float:
    """Return the largest |Z|^2 that the energy |A N|^2 allows when rounding moves A N by ``rounding``."""
    return ((math.sqrt(energy) + rounding) / sigma) ** 2


def weakest(energy: float, degrees: int, sigma: float, rounding: float, count: int = 1) -> float:
    """Return a bound on the chance that the least of ``count`` energies is ``energy`` or less.

    Parameters
    ----------
    energy
        Sum of squares of ``degrees`` orthonormal combinations of the noise.
    degrees
        Degrees of freedom of each energy.
    sigma
        Of the noise before rounding.
    rounding
        Largest L2 norm that rounding can add to these combinations: sqrt(k) / 2 for k plain values.
    count
        How many energies the smallest was taken from.
    """
    return min(1.0, count * float(chi2.cdf(_gaussian_energy(energy, sigma, rounding), degrees)))


def all_below(energy: float, degrees: int, sigma: float, rounding: float, count: int) -> float:
    """Return a bound on the chance that all of ``count`` independent energies are ``energy`` or less."""
    return math.exp(count * float(chi2.logcdf(_gaussian_energy(energy, sigma, rounding), degrees)))


def all_values_within(largest: float, sigma: float, count: int) -> float:
    """Return the exact chance that ``count`` values of the noise are all at most ``largest`` in size."""
    beyond = float(erfc((largest + 0.5) / (sigma * math.sqrt(2))))
    return math.exp(count * math.log1p(-beyond)) if beyond < 1 else 0.0


def quadratic(form: float, weights: float, largest: float) -> float:
    """Return a bound on the chance that a form exceeds its mean by ``form`` (in units of the variance).

    Parameters
    ----------
    form
        The excess over the mean, divided by ``variance(sigma)``.
    weights
        L2 norm of the form's matrix (its Frobenius norm).
    largest
        At least its largest eigenvalue.
    """
    if form <= 0:
        return 1.0
    s = (math.sqrt(weights * weights + 2 * largest * form) - weights) / (2 * largest)
    return math.exp(-s * s)


def linear(standardised: float, count: int) -> float:
    """Return a bound on the chance that one of ``count`` linear forms is so large in size (either sign)."""
    log_p = math.log(2 * max(1, count)) - standardised * standardised / 2
    return math.exp(min(0.0, log_p))
