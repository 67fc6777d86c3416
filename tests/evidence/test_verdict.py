"""Sentences follow the numbers: what exceeds a cap is named, chance is called chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedpdiff.attack_results import (
    RECOVERED_FILE,
    AttackResults,
    Attribute,
    Control,
    Curve,
    Epsilon,
    Interval,
    LowFalsePositives,
    Membership,
    Reidentification,
)
from fedpdiff.config import RunConfig
from fedpdiff.errors import RunError
from fedpdiff.evidence.epsilon import AUDIT, GAUSSIAN
from fedpdiff.evidence.verdict import exceeded, verdict
from fedpdiff.runfolder import RunFolder

PASSED = Control(name="low-noise release", what="w", measured="m", needed="n", passed=True)


def membership(auc: tuple[float, float, float], **changes: Any) -> Membership:
    value, low, high = auc
    fields: dict[str, Any] = {
        "target": "global model",
        "client": None,
        "protected": True,
        "attack": "PIA",
        "setting": "level 1",
        "works": True,
        "members": 100,
        "non_members": 100,
        "auc": Interval(value=value, low=low, high=high),
        "auc_cap": 0.6,
        "balanced_accuracy": 0.5,
        "balanced_accuracy_cap": 0.7,
        "at_low_fpr": [LowFalsePositives(fpr=0.01, tpr=None)],
        "curve": Curve(fpr=[0, 1], tpr=[0, 1]),
    }
    return Membership(**fields | changes)


def matched(rate: tuple[float, float, float], cap: float, t0: int = 400) -> Reidentification:
    value, low, high = rate
    return Reidentification(
        t0=t0,
        epsilon=9.0,
        uploads="sent",
        gallery="all 500",
        candidates=500,
        rate=Interval(value=value, low=low, high=high),
        chance=0.002,
        cap=cap,
    )


def results(**changes: Any) -> AttackResults:
    fields: dict[str, Any] = {
        "created": "2026-01-02T03:04:05+00:00",
        "software": "fedpdiff",
        "seconds": {},
        "privacy": {"t0": 400, "mu": 1.0, "epsilon": 9.0},
        "release_noise": "secure",
        "controls": [PASSED],
        "verdict": None,
        "exceeded": [],
        "membership": [membership((0.52, 0.47, 0.57))],
        "memorisation": [],
        "reidentification": [matched((0.01, 0.003, 0.02), 0.05)],
        "recovery": [],
        "attributes": [],
        "epsilon": [],
        "notes": [],
    }
    return AttackResults(**fields | changes)


def test_within_the_caps_nothing_is_exceeded() -> None:
    found = results()
    assert exceeded(found) == []
    lines = verdict(found)
    assert lines is not None
    assert lines[0] == "No attack exceeded what the guarantee allows."
    assert "AUC 0.520 [0.470, 0.570]" in lines[1] and lines[1].endswith("That is no better than guessing.")
    assert "1.0 % among all 500 (guessing 0.2 %, cap 5.0 %)" in lines[2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"membership": [membership((0.8, 0.75, 0.85))]}, "PIA on the global model: AUC 0.800"),
        ({"reidentification": [matched((0.3, 0.26, 0.34), 0.05)]}, "re-identification at t0 = 400"),
        (
            {
                "attributes": [
                    Attribute(
                        t0=400,
                        epsilon=9,
                        uploads="sent",
                        attribute="class",
                        values=10,
                        reader="network",
                        accuracy=Interval(value=0.5, low=0.47, high=0.53),
                        chance=0.1,
                        cap=0.3,
                    )
                ]
            },
            "class read at t0 = 400: 50.0 %, the cap is 30.0 %",
        ),
        (
            {
                "epsilon": [
                    Epsilon(source="audit", assumption="a", theory=5, low=5.5, high=7, confidence=0.999)
                ]
            },
            "epsilon of one image by audit: at least 5.500, stated is 5.000",
        ),
    ],
)
def test_what_lies_above_its_cap_is_named(changes: dict[str, Any], named: str) -> None:
    found = results(**changes)
    assert any(named in line for line in exceeded(found))
    lines = verdict(found.model_copy(update={"exceeded": exceeded(found)}))
    assert lines is not None and lines[0].startswith("ABOVE THE CAP") and named in lines[0]


def test_chance_above_a_cap_is_no_alarm() -> None:
    """An interval that reaches the cap, or whose mirror image does, is within three standard errors of it."""
    assert exceeded(results(membership=[membership((0.64, 0.61, 0.67))])) == []
    assert exceeded(results(reidentification=[matched((0.018, 0.008, 0.034), 0.015)])) == []


def test_personal_models_have_no_cap_and_attacks_without_control_no_say() -> None:
    personal = {"target": "personal model", "client": "client-1", "protected": False, "auc_cap": None}
    rows = [
        membership((0.9, 0.8, 0.97), **personal, works=False, attack="SecMI"),
        membership((0.7, 0.6, 0.8), **personal),
    ]
    lines = verdict(results(membership=rows))
    assert lines is not None
    assert "PIA, reaches AUC 0.700" in lines[1] and "(of client-1)" in lines[1]
    assert "Nothing but its secrecy protects it" in lines[1]
    assert "SecMI" not in " ".join(lines)


@pytest.mark.parametrize("controls", [[], [PASSED, PASSED.model_copy(update={"passed": False})]])
def test_without_working_controls_there_is_no_verdict(controls: list[Control]) -> None:
    assert verdict(results(controls=controls)) is None


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (27.0, 35.0, "easiest to tell apart: 27.00 to 35.00; stated: 30.00."),
        (27.0, None, "easiest to tell apart: at least 27.00; stated: 30.00."),
        (0.0, None, ""),
    ],
)
def test_the_measured_epsilon_stands_beside_the_stated_one(
    low: float, high: float | None, words: str
) -> None:
    row = Epsilon(source=AUDIT, assumption=GAUSSIAN, theory=30, low=low, high=high, confidence=0.999)
    lines = verdict(results(epsilon=[row]))
    assert lines is not None
    assert any(line.endswith(words) for line in lines) if words else "Epsilon" not in " ".join(lines)


def test_a_new_attempt_forgets_what_attacks_found(tmp_path: Path) -> None:
    results().write(tmp_path)
    (tmp_path / "attacks").mkdir()
    (tmp_path / RECOVERED_FILE).touch()
    RunFolder(tmp_path).prepare(RunConfig())
    assert AttackResults.read(tmp_path) is None
    assert not (tmp_path / RECOVERED_FILE).exists()


def test_the_file_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    assert AttackResults.read(tmp_path) is None
    found = results(verdict=["a line"])
    assert found.write(tmp_path).name == "attacks.json"
    assert AttackResults.read(tmp_path) == found
    (tmp_path / "attacks.json").write_text('{"format_version": 2}')
    with pytest.raises(RunError, match="is not of attacks format 1; run fedpdiff attack again"):
        AttackResults.read(tmp_path)
