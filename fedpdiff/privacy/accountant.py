"""Exact accounting of one Gaussian release (Balle & Wang 2018, Theorem 8), numerically stable.

With mu = (L2 sensitivity) / (noise standard deviation),

    delta(epsilon) = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu),

and with u = epsilon/mu - mu/2, v = epsilon/mu + mu/2, v^2 - u^2 = 2 epsilon, so that e^epsilon phi(v) =
phi(u) and delta = phi(u) (R(u) - R(v)) with Mills' ratio R. Nothing overflows, however large epsilon is.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal

from scipy.optimize import brentq
from scipy.special import erfcx, ndtr

from fedpdiff.errors import PrivacyError

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_SMALLEST_LOG = -1e6  # stands for the logarithm of a delta that underflows; far below any delta asked for


def _mills(x: float) -> float:
    """Return (1 - Phi(x)) / phi(x)."""
    return math.sqrt(math.pi / 2) * float(erfcx(x / math.sqrt(2)))


def _check(delta: float, **not_negative: float) -> None:
    if not 0 < delta < 1:
        raise PrivacyError(f"delta is {delta!r}, but must lie strictly between 0 and 1; 1e-5 is usual")
    for name, value in not_negative.items():
        if not 0 <= value < math.inf:
            raise PrivacyError(f"{name} is {value!r}, but must be finite and not negative")


def log_delta(epsilon: float, mu: float) -> float:
    """Return the logarithm of the exact delta of a mu-GDP mechanism at ``epsilon``.

    Parameters
    ----------
    epsilon
        At least 0.
    mu
        Above 0.
    """
    u, v = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    log_phi_u = -0.5 * u * u - _LOG_SQRT_2PI
    if u >= 0:
        difference = _mills(u) - _mills(v)
        return log_phi_u + math.log(difference) if difference > 0 else -math.inf
    delta = float(ndtr(-u)) - math.exp(log_phi_u) * _mills(v)
    return math.log(delta) if delta > 0 else -math.inf


def theorem_5_1_epsilon(mu: float, delta: float) -> float:
    """Return epsilon by Theorem 5.1 of PFDM, rho + 2 sqrt(rho log(1/delta)) with rho = mu^2 / 2 (loose)."""
    _check(delta, mu=mu)
    rho = mu * mu / 2
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def _theorem_5_1_mu(epsilon: float, delta: float) -> float:
    level = math.log(1 / delta)
    return math.sqrt(2) * epsilon / (math.sqrt(level + epsilon) + math.sqrt(level))


def epsilon_from_mu(mu: float, delta: float) -> float:
    """Return the smallest epsilon for which a mu-GDP mechanism is (epsilon, delta)-private.

    Parameters
    ----------
    mu
        Sensitivity over noise standard deviation, at least 0.
    delta
        Strictly between 0 and 1.

    Returns
    -------
    float
        Exact to about 1e-12 (relative); round up with :func:`round_up` before printing.

    Raises
    ------
    PrivacyError
        When an argument is out of range.
    """
    _check(delta, mu=mu)
    target = math.log(delta)
    if mu == 0 or log_delta(0.0, mu) <= target:
        return 0.0
    upper = theorem_5_1_epsilon(mu, delta)
    return float(
        brentq(lambda e: max(log_delta(e, mu), _SMALLEST_LOG) - target, 0.0, upper, xtol=1e-14, rtol=1e-15)
    )


def mu_from_epsilon(epsilon: float, delta: float) -> float:
    """Return the largest mu for which a mu-GDP mechanism is (epsilon, delta)-private: the inverse."""
    _check(delta, epsilon=epsilon)
    target = math.log(delta)
    # Both are always allowed: Theorem 5.1 is valid, and delta(epsilon) <= delta(0) < 0.4 mu.
    lower = max(_theorem_5_1_mu(epsilon, delta), delta)
    upper = 2 * lower
    while log_delta(epsilon, upper) < target:
        upper *= 2
    return float(
        brentq(
            lambda m: max(log_delta(epsilon, m), _SMALLEST_LOG) - target, lower, upper, xtol=1e-15, rtol=1e-15
        )
    )


def round_up(value: float, digits: int = 3) -> float:
    """Return ``value`` with ``digits`` decimals, never less than it is."""
    nearest = round(value, digits)
    if nearest >= value:
        return nearest
    return float(Decimal(value).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING))
