"""Targets and uploads: models in their own frame, uploads that were sent, the audit of the same mechanism."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedpdiff.attacks.membership_suite import JudgedAttack
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.evidence import epsilon, models
from fedpdiff.evidence.artefacts import Artefacts, read_artefacts
from fedpdiff.evidence.candidates import Candidates
from fedpdiff.evidence.models import FULL_NOISE, attack_denoiser, setting_words
from fedpdiff.evidence.scene import MADE, SENT, UploadScene


@pytest.fixture
def artefacts(original_run: Path) -> Artefacts:
    return read_artefacts(original_run, "cpu")


def test_each_model_gets_images_of_its_own_frame(
    artefacts: Artefacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    original = models.score_images

    def watched(predictor: object, levels: object, x: torch.Tensor, *rest: object, **named: object) -> object:
        seen.append(x)
        return original(predictor, levels, x, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(models, "score_images", watched)
    few = artefacts.clients[0].train.select(torch.arange(12))
    candidates = Candidates(few, artefacts.images.held_out.select(torch.arange(12)))

    def attack(denoiser: Denoiser) -> list[JudgedAttack]:
        seen.clear()
        return attack_denoiser(denoiser, artefacts.mechanism, candidates, 1)

    personal = attack(artefacts.clients[0].personal)
    assert torch.equal(seen[0][:12], few.pixels())
    assert FULL_NOISE not in {found.attack for found in personal}
    halves = attack(artefacts.global_half)
    clipped = torch.from_numpy(artefacts.mechanism.clipped(few)).float()
    torch.testing.assert_close(seen[0][:12], artefacts.mechanism.alpha_bar**0.5 * clipped)
    torch.testing.assert_close(seen[1][:12], clipped)  # together with the noise of t0
    levels = {found.setting.t for found in halves}
    assert min(levels) > artefacts.mechanism.t0  # where the global half was never trained
    assert "level" in setting_words(halves[0]) and str(halves[0].setting.t + 1) in setting_words(halves[0])
    assert ("power" in setting_words(halves[0])) != ("power" in setting_words(halves[2]))  # PIA, SecMI


def test_uploads_at_the_run_s_level_are_those_sent(artefacts: Artefacts) -> None:
    """The noise of 500 uploads is within 3 % of what it should be: seven standard errors."""
    scene = UploadScene(artefacts, 500)
    sent, made = scene.uploads(artefacts.mechanism.t0), scene.uploads(300)
    assert (sent.origin, made.origin) == (SENT, MADE)
    pooled = torch.cat([client.uploads for client in artefacts.clients]).double().numpy()
    rows = {upload.tobytes() for upload in pooled}
    assert all(upload.tobytes() in rows for upload in sent.values)
    assert np.array_equal(sent.truth, made.truth) and np.array_equal(sent.labels, made.labels)
    assert set(sent.owners) == {0, 1}
    for uploads in (sent, made):
        share = uploads.mechanism.alpha_bar
        noise = uploads.values - share**0.5 * uploads.truth
        assert noise.std() == pytest.approx((1 - share) ** 0.5, rel=0.03)
    assert made.epsilon > sent.epsilon
    learn, test = scene.attacker
    assert len(learn) + len(test) == len(artefacts.images.public)


def test_the_audit_is_of_the_run_s_mechanism(artefacts: Artefacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epsilon, "_PER_SIDE", 1000)
    found, problems = epsilon.audited(artefacts.mechanism)
    assert problems == []
    interval = found[0]
    assert interval.theory == artefacts.mechanism.statement()["epsilon"]
    assert interval.low is not None and interval.high is not None
    assert interval.low < interval.theory < interval.high


def test_membership_scores_prove_an_epsilon_only_when_they_tell(artefacts: Artefacts) -> None:
    rng = np.random.default_rng(1)
    nothing = epsilon.from_membership(rng.normal(size=2000), rng.normal(size=2000), artefacts.mechanism)
    much = epsilon.from_membership(rng.normal(-3, 1, 2000), rng.normal(size=2000), artefacts.mechanism)
    assert nothing[0].low is None or nothing[0].low < 0.5
    assert much[0].low is not None and 5 < much[0].low < 17.1  # mu = 3 at delta 1e-5: epsilon 16.5
    assert much[1].low is not None and 1 < much[1].low < 16.5


def test_candidates_have_the_same_classes_on_both_sides(artefacts: Artefacts) -> None:
    drawn: Callable[..., Candidates] = Candidates.draw
    found = drawn(artefacts.clients[0].train, artefacts.images.held_out, 60, np.random.default_rng(2))
    assert found.members.counts(10) == found.non_members.counts(10)
    assert 50 <= len(found.members) <= 70
