"""Noisings of one image add up, and the client's policy has the last word: numbers against dp_accounting."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.release import ReleaseRequest

Make = Callable[..., Any]
LEVELS = ((690, 3.0), (600, 3.0), (600, 2.0), (800, 9.0))  # t0 and clip


def _mu(alpha_bar: float, clip: float) -> float:
    """Return 2 C / s with s the noise of one unit of signal."""
    return 2 * clip / math.sqrt((1 - alpha_bar) / alpha_bar)


def _epsilon(mus: list[float], delta: float = 1e-5) -> float:
    return float(get_epsilon_gaussian(1 / math.sqrt(sum(mu * mu for mu in mus)), delta))


@pytest.mark.parametrize("count", range(1, len(LEVELS) + 1))
def test_noisings_compose_up_to_the_ceiling(count: int, site: Make, private: Make, level: Make) -> None:
    """A ceiling a millionth above their exact epsilon allows them all, one a millionth below not the last."""
    requests = [level(t0) | {"clip": clip} for t0, clip in LEVELS[:count]]
    epsilon = _epsilon([_mu(r["alpha_bar"], r["clip"]) for r in requests])
    above, below = (site(name, epsilon=epsilon * x) for name, x in (("above", 1 + 1e-6), ("below", 1 - 1e-6)))
    for here in (above, below):
        for request in requests[:-1]:
            here.release(private(range(5)), **request)
    last = above.release(private(range(5)), **requests[-1])
    assert above.counts()["noisings"] == 5 * count
    assert last.certificate["composition"]["noisings_per_image"] == count
    assert last.certificate["composition"]["epsilon_total"] == pytest.approx(epsilon, abs=1.1e-3)
    before = below.rows() if count > 1 else None
    with pytest.raises(PrivacyError, match=rf"epsilon = .* above the epsilon = {below.policy.epsilon:g} of"):
        below.release(private(range(5)), **requests[-1])
    if before:
        assert below.rows() == before


def test_new_images_do_not_pay_for_old_ones(site: Make, private: Make, level: Make) -> None:
    """Images 0 to 4 have spent all; image 5 is new, and alone it may be released at the other level."""
    one, other = level(690), level(700)
    here = site(epsilon=_epsilon([_mu(one["alpha_bar"], 3.0)]) * 1.01)
    here.release(private(range(5)), **one)
    with pytest.raises(PrivacyError, match="above the epsilon"):
        here.release(private(range(6)), **other)
    assert len(here.release(private([5]), **other).labels) == 1
    with pytest.raises(PrivacyError, match="above the epsilon"):
        here.release(private(range(6)), **one)


def test_what_was_spent_is_not_forgotten_with_the_image(site: Make, private: Make, level: Make) -> None:
    here = site(epsilon=_epsilon([_mu(level(690)["alpha_bar"], 3.0)]) * 1.01)
    here.release(private(range(5)))
    here.release(private(range(1, 5)))  # image 0 is taken out
    with pytest.raises(PrivacyError, match="above the epsilon"):
        here.release(private([0]), **level(700))


def test_another_wire_width_or_run_costs_nothing(site: Make, private: Make, no_noise: Any) -> None:
    """At exactly the ceiling, the same request is answered for ever."""
    exact = _epsilon([_mu(site_request().alpha_bar, 3.0)])
    here = site(epsilon=exact * (1 + 1e-9))
    first = here.release(private(range(5)))
    for _ in range(3):
        np.testing.assert_array_equal(here.release(private(range(5)), no_noise).integers, first.integers)


def site_request() -> ReleaseRequest:
    from fedpdiff.schedule import NoiseSchedule

    alpha_bar = float(NoiseSchedule("linear", 1000).alpha_bar[690])
    return ReleaseRequest(
        690, alpha_bar, 3.0, np.zeros((1, 4, 4), np.float32), "linear", 1000, 1e-5, "secure"
    )


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ((1, "linear", 1000), "above the epsilon = 5 of"),
        ({"clip": 1e6}, "above the epsilon = 5 of"),
        ({"clip": 1e300}, "epsilon = inf .* above the epsilon = 5 of"),
        ({"clip": math.inf}, "clip is inf"),
        ({"clip": math.nan}, "clip is nan"),
        ({"alpha_bar": 1.0}, "alpha_bar is 1.0"),
        ((690, "cosine", 1000), r"schedule = \"cosine\" is not among the schedules of .*\(linear\)"),
        ({"delta": 0.1}, "delta = 0.1 is above the delta = 1e-05 of"),
        ({"delta": math.nan}, "delta = nan is above the delta = 1e-05 of"),
        ({"delta": 0.0}, "delta = 0 is above the delta = 1e-05 of"),
        ({"delta": 1e-300}, "above the epsilon = 5 of"),
        ({"coordinator": "somebody"}, 'coordinator = "somebody" is not among the coordinators of'),
        ({"coordinator": ""}, 'coordinator = "" is not among the coordinators of'),
    ],
)
def test_a_hostile_request_is_refused_by_the_name_of_the_limit(
    change: Any, limit: str, site: Make, private: Make, level: Make
) -> None:
    here = site(epsilon=5.0, schedules=["linear"], coordinators=["north", "south"])
    change = level(*change) if isinstance(change, tuple) else change
    with pytest.raises(PrivacyError, match=limit):
        here.release(private(range(5)), **{"coordinator": "north"} | change)
    assert not (here.root / "outbox").exists()
    assert len(here.release(private(range(5)), coordinator="south").labels) == 5
    assert {row[3] for row in here.rows()["batches"]} == {"south"}


def test_a_level_that_is_not_the_schedules_is_not_released(site: Make, private: Make) -> None:
    """It could not be certified; nothing of it is committed, nothing is charged."""
    here = site()
    with pytest.raises(PrivacyError, match=r"alpha_bar is 0\.008, but after t0 = 690"):
        here.release(private(range(5)), alpha_bar=0.008)
    counts = here.counts()
    assert counts["noisings"] == counts["releases"] == counts["images"] == 0
    assert not (here.root / "outbox").exists()
    assert len(here.release(private(range(5))).labels) == 5


@pytest.mark.parametrize(
    "tightened",
    [{"epsilon": 0.5}, {"delta": 1e-7}, {"schedules": ["cosine"]}],
    ids=lambda change: next(iter(change)),
)
def test_a_policy_that_was_tightened_stops_re_sending_as_well(
    tightened: dict[str, Any], site: Make, private: Make
) -> None:
    site().release(private(range(5)))
    here = site(**tightened)
    with pytest.raises(PrivacyError, match=f"{next(iter(tightened))} "):
        here.release(private(range(5)))
    with pytest.raises(PrivacyError, match=f"{next(iter(tightened))} "):
        here.store.read()
    assert len(site().store.read().labels) == 5


def test_a_simulated_client_allows_what_its_run_asks_for_once(site: Make, private: Make, level: Make) -> None:
    here, request = site(), site_request()
    here.policy = Policy.simulation(_epsilon([request.mu]) * (1 + 1e-12), request.delta)
    here.release(private(range(5)))
    with pytest.raises(PrivacyError, match="above the epsilon"):
        here.release(private(range(5)), **level(999))
    store = here.store
    with pytest.raises(PrivacyError, match="delta"):
        store.get_or_make(dataclasses.replace(request, delta=2e-5), private(range(5)), SecureNoise())


def test_the_ledger_keeps_what_the_certificate_states(site: Make, private: Make) -> None:
    here = site(epsilon=12.0)
    release = here.release(private(range(5)))
    certificate = release.certificate
    (mu,) = {row[2] for row in here.rows()["batches"]}
    assert certificate["mu"] == certificate["composition"]["mu_total"] == mu == site_request().mu
    assert certificate["policy"] == {"epsilon": 12.0, "delta": 1e-5}
    assert certificate["created"] == release.manifest["created"]
    assert {certificate[key] == release.manifest[key] for key in ("sha256", "labels_sha256")} == {True}
