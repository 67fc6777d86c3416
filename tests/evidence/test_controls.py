"""Controls: defeated by the attacks as they are, and by none that is broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.attacks import membership_suite
from fedpdiff.attacks.reidentification import reidentify
from fedpdiff.evidence import controls, copies, uploads
from fedpdiff.evidence.artefacts import Artefacts, read_artefacts
from fedpdiff.evidence.candidates import few_and_others
from fedpdiff.evidence.models import GLOBAL, PERSONAL
from fedpdiff.evidence.scene import UploadScene


@pytest.fixture
def artefacts(original_run: Path) -> Artefacts:
    return read_artefacts(original_run, "cpu")  # reads only


@pytest.mark.slow
def test_overfitted_networks_are_seen_through(artefacts: Artefacts) -> None:
    found = controls.overfitted_controls(artefacts)
    for target in (GLOBAL, PERSONAL):
        assert found[target].control.passed, found[target].control
        assert sum(found[target].works.values()) >= 3, found[target].works


def test_a_network_that_learnt_nothing_is_no_control(
    artefacts: Artefacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (controls, "_STEPS", 2),
        (controls, "_ROUNDS", 2),
        (membership_suite, "_OFFSETS", (0.1,)),
        (membership_suite, "_LOSS_OFFSETS", (0.1,)),
    ):
        monkeypatch.setattr(module, name, value)
    found = controls._overfit(artefacts, artefacts.clients[0].personal, PERSONAL, "clean images", _silent)
    assert not found.control.passed
    assert "AUC" in found.control.measured


def _silent(*_: Any) -> None:
    pass


def test_a_release_with_little_noise_is_seen_through(
    artefacts: Artefacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = UploadScene(artefacts, 300)
    assert scene.control_level == 300
    found = uploads.low_noise_control(scene)
    assert found.passed, found
    monkeypatch.setattr(
        uploads, "reidentify", lambda y, u, scale, mu: reidentify(y, np.roll(u, 1, axis=0), scale, mu)
    )
    assert not uploads.low_noise_control(scene).passed
    low = replace(artefacts, mechanism=artefacts.mechanism.at(250))
    assert UploadScene(low, 300).control_level == 125


def test_copied_images_are_seen_through(artefacts: Artefacts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert copies.copy_control(artefacts).passed
    monkeypatch.setattr(copies, "_COPY_NOISE", 30.0)  # no copies any more
    assert not copies.copy_control(artefacts).passed


def test_a_few_members_meet_others_of_their_classes(artefacts: Artefacts) -> None:
    train, held_out = artefacts.clients[0].train, artefacts.images.held_out
    found = few_and_others(train, held_out, np.random.default_rng(1))
    few, others = (np.bincount(images.labels, minlength=10) for images in (found.members, found.non_members))
    assert few.sum() == 12
    available = np.array(held_out.counts(10))
    assert others.tolist() == np.minimum(10 * few, available).tolist()
