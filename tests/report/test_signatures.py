"""Known failures: each sign is found where it is, named with its cause, and not where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.attack_results import AttackResults, Control, Curve, Interval, Membership
from fedpdiff.report import page
from fedpdiff.report.page import write_report
from fedpdiff.report.run_files import RunFiles
from fedpdiff.report.signatures import Symptoms, relative_sharpness, signatures, symptoms

Build = Callable[..., Path]


def attacks(auc: float = 0.7, exceeded: tuple[str, ...] = (), passed: bool = True) -> AttackResults:
    """Return what one attack on the uploads found, with an interval of 0.05 to each side."""
    row = Membership(
        target="uploads", client=None, protected=True, attack="likelihood ratio", setting="", works=True,
        members=100, non_members=100, auc=Interval(value=auc, low=auc - 0.05, high=auc + 0.05), auc_cap=0.9,
        balanced_accuracy=0.6, at_low_fpr=[], curve=Curve(fpr=[0, 1], tpr=[0, 1]),
    )  # fmt: skip
    return AttackResults(
        created="", software="", seconds={}, privacy={"epsilon": 60.0, "delta": 1e-5, "t0": 400},
        release_noise="secure",
        controls=[Control(name="x", what="", measured="", needed="", passed=passed)],
        verdict=[], exceeded=list(exceeded), membership=[row], memorisation=[], reidentification=[],
        recovery=[], attributes=[], epsilon=[], notes=[],
    )  # fmt: skip


HEALTHY = Symptoms("pfdm", minority=4.0, local=6.0, oracle=3.5, accuracy=0.9, coverage=0.6, sharpness=1.0)


def test_a_healthy_run_and_one_without_numbers_show_nothing() -> None:
    assert signatures(HEALTHY) == []
    assert signatures(Symptoms("pfdm")) == []
    assert signatures(Symptoms("fedavg", minority=9.0, local=6.0, accuracy=0.8, sharpness=0.9)) == []


@pytest.mark.parametrize(
    ("changed", "said", "not_said"),
    [
        ({"minority": 7.0, "oracle": 3.5}, "raise global-steps", "t0 is too large"),
        ({"minority": 7.0, "oracle": 6.5}, "t0 is too large", "raise global-steps"),
        ({"minority": 7.0, "oracle": 6.5}, "personal network is too small", "raise global-steps"),
        ({"minority": 7.0, "oracle": None}, "oracle = true would tell why", "raise global-steps"),
        ({"accuracy": 0.4}, "only 40 % of rare-class samples", "blurred"),
        ({"coverage": 0.3}, "learnt its few images by heart", "blurred"),
        ({"sharpness": 0.5}, "sharpness is 50 % of that of real images", "rare classes"),
        ({"sharpness": 0.5}, "t0 is too small", "t0 is too large"),
        ({"method": "fedavg", "sharpness": 0.5}, "raise personal-steps", "t0"),
        ({"attacks": attacks(0.7)}, "an attack is above chance", "settings do not"),
        ({"attacks": attacks(0.95, ("uploads: AUC",))}, "settings do not give what it states", "guessing"),
    ],
)
def test_each_sign_names_its_cause(changed: dict[str, Any], said: str, not_said: str) -> None:
    lines = signatures(Symptoms(**{**vars(HEALTHY), **changed}))
    assert len(lines) == 1
    assert said in lines[0].lower() or said in lines[0]
    assert not_said not in lines[0]


def test_an_attack_whose_interval_holds_chance_is_no_sign() -> None:
    assert signatures(Symptoms("pfdm", attacks=attacks(0.54))) == []


def test_symptoms_are_means_over_clients(run_folder: Build) -> None:
    """make_results: local 6.2 (1 + 0.1 k + 0.02 seed) for the minority, PFDM 4.1 for all."""
    found = symptoms(RunFiles.read(run_folder()))
    assert found.local == pytest.approx(6.2 * 1.07)
    assert (found.minority, found.accuracy) == (pytest.approx(4.1), pytest.approx(0.9))
    assert found.attacks is None


@pytest.mark.parametrize(
    ("balance", "dropout", "expected"), [(1.0, 0.2, 0.3), (0.75, 0.2, None), (1.0, 0.0, None)]
)
def test_coverage_is_read_where_classes_were_drawn_equally_often(
    run_folder: Build, balance: float, dropout: float, expected: float | None
) -> None:
    folder = run_folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "class-balance": balance, "label-dropout": dropout})
    )
    results = json.loads((folder / "results.json").read_text())
    for client in results["clients"]:
        client["groups"]["minority"]["pfdm"]["recall"] = 0.2 + 0.08 * client["client"]
        client["groups"]["majority"]["pfdm"]["recall"] = 0.8
    (folder / "results.json").write_text(json.dumps(results))
    assert symptoms(RunFiles.read(folder)).coverage == (expected and pytest.approx(expected))


def test_what_attacks_found_counts_only_when_every_control_was_defeated(run_folder: Build) -> None:
    folder = run_folder()
    attacks().write(folder)
    assert symptoms(RunFiles.read(folder)).attacks is not None
    attacks(passed=False).write(folder)
    assert symptoms(RunFiles.read(folder)).attacks is None


def blur(images: np.ndarray) -> np.ndarray:
    x = images.astype(float)
    for axis in (2, 3):
        x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    return x.astype(np.uint8)


def test_blurred_samples_are_recognised(run_folder: Build) -> None:
    """Real digits against the same ones blurred, against themselves, and against noisier ones."""
    folder = run_folder()
    assert relative_sharpness(RunFiles.read(folder)) > 1
    for make, low, high in ((blur, 0.0, 0.75), (lambda x: x, 0.999, 1.001)):
        for client in range(2):
            samples = folder / f"client-{client}" / "samples"
            with np.load(samples / "real.npz") as real:
                np.savez(samples / "pfdm.npz", images=make(real["images"]), labels=real["labels"])
        sharpness = relative_sharpness(RunFiles.read(folder))
        assert sharpness is not None and low < sharpness < high


def test_samples_of_other_classes_are_not_compared(run_folder: Build) -> None:
    folder = run_folder()
    for client in range(2):
        samples = folder / f"client-{client}" / "samples" / "pfdm.npz"
        np.savez(samples, images=np.zeros((3, 1, 8, 8), np.uint8), labels=np.full(3, 77))
    assert relative_sharpness(RunFiles.read(folder)) is None


def test_page_and_table_say_it(run_folder: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "draw_figures", lambda run: [])
    good, bad = run_folder("good"), run_folder("bad", pfdm=9.0)
    for folder, expected in ((good, False), (bad, True)):
        text = write_report(folder).read_text(encoding="utf-8")
        assert ("What went wrong, and what to change" in text) == expected
        assert ("raise global-steps" in text.lower()) == expected
        assert ("Raise global-steps" in (folder / "results.md").read_text()) == expected
