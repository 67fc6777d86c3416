"""The audit: the real release code keeps its promise, and every planted error is caught.

| planted error                     | audit | noise health check |
|-----------------------------------|-------|--------------------|
| forgotten clip                    | yes   | no (it is no matter of noise) |
| clip in the wrong pixel range     | yes   | no                 |
| t0 swapped with T - t0            | yes   | no                 |
| noise scaled by b^2 instead of b  | yes   | yes                |
| noise 1.2 times too small         | yes   | yes                |
| noise shared within a batch       | yes   | yes                |
| second noising on retry           | yes   | no                 |

An interval promises to hold mu in 99.9 % of the audits. It does so more often: at one threshold it misses
only where both rates err together, in all in 3e-7 of the audits (exact binomials), and so rarely do these
tests fail by chance.
"""

from __future__ import annotations

import json
import math
import secrets
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from fedpdiff.cli import main
from fedpdiff.cli.audit import _request
from fedpdiff.errors import PrivacyError
from fedpdiff.federation import agreement
from fedpdiff.privacy import audit as audit_module
from fedpdiff.privacy import mechanism, noise_health
from fedpdiff.privacy.audit import AuditReport, alpha_bar_by_definition, audit
from fedpdiff.privacy.audit_bounds import at_least, at_most, epsilon_at_least, mu_interval, one_run_epsilon
from fedpdiff.privacy.gaussian_noise import NoiseSource, rounded_gaussian
from fedpdiff.privacy.mechanism import STEP
from fedpdiff.privacy.release import ReleaseStore
from fedpdiff.schedule import NoiseSchedule

N = 4000  # a side: mu to about 10 %
Noise = Callable[[float, int, NoiseSource], NDArray[np.int32]]


def _audit(folder: Path, t0: int = 600, clip: float = 5.0, n: int = N, shape: str = "1x8x8") -> AuditReport:
    settings = Namespace(t0=t0, clip=clip, shape=shape, delta=1e-5, schedule="linear", steps=1000)
    return audit(_request(settings), n, folder)


def _problems(folder: Path, **settings: float) -> str:
    """Return what the audit says, or what the release code itself refuses."""
    try:
        return "; ".join(_audit(folder, **settings).problems)  # type: ignore[arg-type]
    except PrivacyError as error:
        return f"refused: {error}"


@pytest.fixture
def no_health_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every noise pass, so that the audit alone has to find what is wrong."""
    monkeypatch.setattr(noise_health.HealthReport, "failed", ())


def test_the_release_code_keeps_its_promise(tmp_path: Path) -> None:
    """False-alarm rate 3e-7; an interval as wide as the last lines forbid has a chance of 2e-6."""
    report = _audit(tmp_path)
    mu = report.promised["mu"]
    assert mu == pytest.approx(1.6299, abs=1e-3)
    assert report.problems == ()
    low, high = report.mu_interval
    assert low <= mu <= high
    assert low > 0.8 * mu and high < 1.2 * mu  # and says something
    assert 1 < report.epsilon_at_least < report.promised["epsilon"]
    assert 1 < report.one_run_epsilon < report.promised["epsilon"]
    assert sum(report.counts) == 2 * N


# -- planted errors ---------------------------------------------------------------------------------------


def _signal_of(pixels: Callable[[NDArray[np.float64], float], NDArray[np.float64]]) -> Callable[..., object]:
    """Return a ``signal_integers`` that clips as ``pixels`` does, and trusts it."""

    def signal(x: NDArray[np.float64], centre: object, radius: float, alpha_bar: float) -> NDArray[np.int16]:
        return np.trunc(pixels(x, radius) * math.sqrt(alpha_bar) / STEP).astype(np.int16)

    return signal


def _clip_in_255(x: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    return mechanism.clip(x, 0.0, 127.5 * radius)


def _clip_in_0_1(x: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    return mechanism.clip((x + 1) / 2, 0.0, radius)


@pytest.mark.parametrize(
    ("clip", "found"),
    [
        (lambda x, radius: x, "reveals more than promised"),
        (_clip_in_255, "reveals more than promised"),
        (_clip_in_0_1, "less signal"),
    ],
    ids=["forgotten", "of pixels in 0..255", "of pixels in 0..1"],
)
def test_wrong_clips_are_caught(
    clip: Callable[..., NDArray[np.float64]], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mechanism, "signal_integers", _signal_of(clip))
    assert found in _problems(tmp_path)


class _SwappedSchedule(NoiseSchedule):
    """Takes T - t0 for t0."""

    def __init__(self, name: str, steps: int = 1000) -> None:
        super().__init__(name, steps)
        self.alpha_bar = self.alpha_bar[::-1]


def test_t0_swapped_with_what_is_left_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "NoiseSchedule", _SwappedSchedule)
    found = _problems(tmp_path)
    assert "reveals more than promised" in found or "alpha_bar" in found


def _scaled_by_b_squared(sigma: float, count: int, noise: NoiseSource) -> NDArray[np.int32]:
    return rounded_gaussian(sigma * sigma * STEP, count, noise)


def _too_weak(sigma: float, count: int, noise: NoiseSource) -> NDArray[np.int32]:
    return rounded_gaussian(sigma / 1.2, count, noise)


def _shared(sigma: float, count: int, noise: NoiseSource) -> NDArray[np.int32]:
    return np.resize(rounded_gaussian(sigma, 64 * 50, noise), count)  # batches of 50 images


WRONG_NOISE = {
    "b squared": (_scaled_by_b_squared, "reveals more than promised"),
    "1.2 times too small": (_too_weak, "reveals more than promised"),
    "shared within a batch": (_shared, "the same noise"),
}
STRONG = {"t0": 300, "clip": 1.0}  # mu 1.62 with b = 0.78, so that b^2 is another number


@pytest.mark.parametrize("name", WRONG_NOISE)
def test_wrong_noise_is_caught_by_the_audit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_health_check: None
) -> None:
    noise, found = WRONG_NOISE[name]
    monkeypatch.setattr(mechanism, "rounded_gaussian", noise)
    assert found in _problems(tmp_path, **STRONG)


@pytest.mark.parametrize("name", WRONG_NOISE)
def test_wrong_noise_is_caught_by_the_health_check(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mechanism, "rounded_gaussian", WRONG_NOISE[name][0])
    with pytest.raises(PrivacyError, match="health check"):
        _audit(tmp_path, n=300, **STRONG)  # type: ignore[arg-type]


class _ForgetfulStore(ReleaseStore):
    """Begins anew each time it is opened."""

    def __init__(self, folder: Path, policy: object) -> None:
        super().__init__(folder / secrets.token_hex(8), policy)  # type: ignore[arg-type]


def test_a_second_noising_on_retry_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "ReleaseStore", _ForgetfulStore)
    assert "second release" in _problems(tmp_path, n=100)


def test_too_much_noise_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_health_check: None
) -> None:
    """It keeps the promise, but is not what was agreed."""
    monkeypatch.setattr(mechanism, "rounded_gaussian", lambda s, n, z: 2 * rounded_gaussian(s, n, z))
    assert "more noise than promised" in _problems(tmp_path)


# -- the bounds -------------------------------------------------------------------------------------------


def test_clopper_pearson() -> None:
    for successes, trials in ((0, 50), (3, 50), (50, 50)):
        exact = binomtest(successes, trials).proportion_ci(0.98, method="exact")
        assert at_least(successes, trials, 0.01) == pytest.approx(exact.low)
        assert at_most(successes, trials, 0.01) == pytest.approx(exact.high)


def test_bounds_hold_and_are_reached_for_randomised_response() -> None:
    """A mechanism of epsilon 1 that is not Gaussian. Each bound fails with probability 1e-6."""
    generator = np.random.default_rng()
    white = generator.random(100_000) < 0.5
    tells = generator.random(100_000) < 1 / (1 + math.exp(-1.0))
    scores = np.where(tells == white, 1.0, -1.0) + 1e-6 * generator.random(100_000)
    free = epsilon_at_least(scores[~white], scores[white], (0.0,), 1e-9, 1e-6)
    one_run = one_run_epsilon(scores, white, 50_000, 1e-9, 1e-6)
    assert 0.85 < free <= 1.0
    assert 0.85 < one_run <= 1.0


def test_without_errors_there_is_no_upper_end() -> None:
    low, high = mu_interval(np.full(1000, -9.0), np.full(1000, 9.0), (0.0,), 1e-3)
    assert high == math.inf
    assert 4 < low < 6  # at most about 8 in 1000 on either side


def test_mu_interval_covers() -> None:
    """At error rate 0.2 and 300 trials, at most 30 % miss: binomial tail 2e-5."""
    generator = np.random.default_rng()
    missed = 0
    for _ in range(300):
        first, second = generator.normal(-0.5, 1, 400), generator.normal(0.5, 1, 400)
        low, high = mu_interval(first, second, (-0.3, 0.0, 0.3), 0.2)
        missed += not low <= 1.0 <= high
    assert missed <= 90


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_definition_written_twice(name: str) -> None:
    schedule = NoiseSchedule(name, 400)
    for t0 in (1, 250, 399, 400):
        assert alpha_bar_by_definition(name, 400, t0) == pytest.approx(schedule.alpha_bar[t0], rel=1e-9)
    with pytest.raises(PrivacyError, match="linear or cosine"):
        alpha_bar_by_definition("square", 400, 1)


# -- the command ------------------------------------------------------------------------------------------


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    """False-alarm rate 3e-7."""
    arguments = ["audit", "--shape", "1x8x8", "--clip", "5", "--t0", "600", "--n", "2000"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    low, high = found["epsilon_interval"]
    assert found["ok"] and low < found["promised"]["epsilon"] < high
    assert found["shape"] == [1, 8, 8] and found["n"] == 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "28x28"], "channels x side x side"),
        (["--shape", "1x8x8"], "only reach a norm of 8"),
        (["--n", "5"], "at least 100"),
        (["--t0", "1000"], "below diffusion-steps"),
        (["--clip", "-1"], "a number above 0"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_broken_promise_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_health_check: None
) -> None:
    monkeypatch.setattr(mechanism, "rounded_gaussian", _too_weak)
    assert main(["audit", "--shape", "1x8x8", "--clip", "1", "--t0", "300", "--n", "4000"]) == 1
    assert "PROBLEM: the release reveals more than promised" in capsys.readouterr().out


@pytest.mark.slow
def test_the_published_setting(tmp_path: Path) -> None:
    """t0 = 690, 28x28, 20,000 a side: epsilon 8.774 within about [8.2, 9.1]; false-alarm rate 4e-7."""
    report = _audit(tmp_path, t0=690, clip=10.0, n=20_000, shape="1x28x28")
    assert report.problems == ()
    assert report.promised["epsilon"] == pytest.approx(8.774, abs=1e-3)
    assert report.promised["epsilon_theorem_5_1"] == pytest.approx(10.243, abs=1e-3)
    low, high = report.epsilon_interval
    assert 7.8 < low <= 8.774 <= high < 9.7
    assert report.epsilon_at_least > 3
    assert report.one_run_epsilon > 3
