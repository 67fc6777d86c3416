"""Denoisers as attackers: the exact one of Gaussian images must give Wiener's estimate in every frame."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedpdiff.attacks.image_quality import recovery
from fedpdiff.attacks.linear import wiener
from fedpdiff.attacks.model_priors import (
    clean_image_prior,
    entry,
    global_levels,
    global_view,
    typical_shrink,
)
from fedpdiff.attacks.reconstruction import tweedie
from fedpdiff.errors import ConfigError
from fedpdiff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule("linear", 1000)
LEVEL = 300
SHARE = float(SCHEDULE.alpha_bar[LEVEL])
COUNT = 400
LABELS = torch.zeros(COUNT, dtype=torch.int64)
CENTRE = torch.full((1, 8, 8), 0.2)


@pytest.fixture
def world(make_gaussians: Any) -> Any:
    """Pixels so far from black and white that no estimate is clamped."""
    return make_gaussians(np.linspace(0.001, 0.05, 64), mean=0.1)


def test_an_upload_that_was_not_shrunk_enters_at_its_own_level(
    world: Any, make_noisy: Any, make_exact_denoiser: Any
) -> None:
    prior = clean_image_prior(make_exact_denoiser(world.shifted(0.2)))
    door = entry(prior, SHARE, 1.0, CENTRE)
    assert (door.level, door.shrink) == (LEVEL, 1.0)
    uploads = make_noisy(world.draw(COUNT, 1), LEVEL, 2)
    torch.testing.assert_close(door.enter(uploads), uploads + SHARE**0.5 * 0.2, rtol=1e-6, atol=1e-6)
    found = door.leave(tweedie(prior, door.enter(uploads), door.level, LABELS)).flatten(1).numpy()
    np.testing.assert_allclose(found, wiener(world.model(), uploads, LABELS, SHARE), atol=1e-6)


def test_clipped_images_enter_at_a_higher_level(
    world: Any, make_noisy: Any, make_exact_denoiser: Any
) -> None:
    """u = k (x - c): the attack on u through the pixels' denoiser is Wiener's on k^2 of the covariance."""
    shrink = 0.4
    prior = clean_image_prior(make_exact_denoiser(world.shifted(0.2)))
    small = world.scaled(shrink)
    truth = small.draw(COUNT, 3)
    uploads = make_noisy(truth, LEVEL, 4)
    scores = {}
    for k in (shrink, 1.0):
        door = entry(prior, SHARE, k, CENTRE)
        found = door.leave(tweedie(prior, door.enter(uploads), door.level, LABELS))
        scores[k] = recovery(found, truth, small.mean.expand(COUNT, -1)).score
        if k == shrink:
            best = wiener(small.model(), uploads, LABELS, SHARE)
            assert door.level > LEVEL
            # the nearest of 1000 levels has up to 0.5 % more or less noise
            np.testing.assert_allclose(found.flatten(1).numpy(), best, atol=0.01 * best.std())
    assert scores[shrink] < 0.999
    assert scores[1.0] > scores[shrink] + 0.005  # what forgetting the clip would cost the attacker


def test_a_prior_that_ends_at_t0_takes_uploads_as_they_are(world: Any, make_exact_denoiser: Any) -> None:
    prior = clean_image_prior(make_exact_denoiser(world, last=LEVEL))
    door = entry(prior, SHARE, 0.3, CENTRE)
    assert door.level == LEVEL and door.shrink == pytest.approx(1)
    with pytest.raises(ConfigError, match="noise per unit of signal at most"):
        entry(prior, float(SCHEDULE.alpha_bar[LEVEL + 1]), 1.0, CENTRE)
    with pytest.raises(ConfigError, match="shrink = 0"):
        entry(prior, SHARE, 0, CENTRE)


def test_typical_shrink_is_the_median_of_public_images() -> None:
    images = CENTRE + torch.tensor([0.1, 0.2, 0.5]).view(3, 1, 1, 1)  # norms 0.8, 1.6 and 4 around the centre
    assert typical_shrink(images, CENTRE, 0.4) == pytest.approx(0.25)
    assert typical_shrink(images, CENTRE, 2.0) == 1


@pytest.mark.parametrize("kind", ["continued", "nested"])
def test_the_global_half_sees_what_wiener_sees(
    world: Any, make_noisy: Any, make_exact_denoiser: Any, kind: str
) -> None:
    """Nearly: it looks from a little above the upload's level, or (nested) from where half is left."""
    world = world.scaled(4.0)
    half = make_exact_denoiser(world, kind=kind)
    truth = world.draw(COUNT, 5)
    uploads = make_noisy(truth, LEVEL, 6)
    guess = world.mean.expand(COUNT, -1)
    least = recovery(wiener(world.model(), uploads, LABELS, SHARE), truth, guess)
    generator = torch.Generator().manual_seed(7)
    found = recovery(global_view(half, uploads, LABELS, generator, draws=8), truth, guess)
    assert least.score < 0.85
    if kind == "continued":
        assert global_levels(half) == LEVEL + 1
        assert abs(found.score - least.score) < 0.01
    else:
        assert half.chain.ratio[global_levels(half)] == pytest.approx(0.5, abs=0.01)
        assert least.score < found.score < least.score + 0.6 * (1 - least.score)


def test_more_draws_see_more(world: Any, make_noisy: Any, make_exact_denoiser: Any) -> None:
    world = world.scaled(4.0)
    half = make_exact_denoiser(world, kind="nested")
    truth = world.draw(COUNT, 8)
    uploads = make_noisy(truth, LEVEL, 9)
    guess = world.mean.expand(COUNT, -1)
    few, many = (
        recovery(
            global_view(half, uploads, LABELS, torch.Generator().manual_seed(1), draws), truth, guess
        ).score
        for draws in (1, 16)
    )
    assert many < few - 0.02


def test_each_half_is_used_for_what_it_knows(world: Any, make_exact_denoiser: Any) -> None:
    personal, shared = make_exact_denoiser(world), make_exact_denoiser(world, kind="continued")
    images = world.draw(2, 0)
    with pytest.raises(ConfigError, match="use global_view"):
        clean_image_prior(shared)
    with pytest.raises(ConfigError, match="use clean_image_prior"):
        global_view(personal, images, LABELS[:2], torch.Generator())
    with pytest.raises(ConfigError, match="levels 301 to 1000"):
        global_view(shared, images, LABELS[:2], torch.Generator(), level=300)
    with pytest.raises(ConfigError, match="at least one draw"):
        global_view(shared, images, LABELS[:2], torch.Generator(), draws=0)


def test_guidance_is_not_the_attackers(
    world: Any, make_noisy: Any, make_exact_denoiser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half that is sampled with guidance attacks with its own estimate."""
    halves = [make_exact_denoiser(world, hidden_label=True, guidance_scale=scale) for scale in (1.0, 3.0)]
    for half in halves:
        exact = half.network.forward

        def labelled(x: Any, t: Any, class_labels: Any, exact: Any = exact) -> SimpleNamespace:
            return SimpleNamespace(sample=exact(x, t, class_labels).sample + class_labels.view(-1, 1, 1, 1))

        monkeypatch.setattr(half.network, "forward", labelled)
    uploads = make_noisy(world.draw(COUNT, 1), LEVEL, 2)
    plain, guided = (tweedie(clean_image_prior(half), uploads, LEVEL, LABELS) for half in halves)
    assert torch.equal(plain, guided)
    assert not torch.allclose(halves[1].guided(uploads, LEVEL, LABELS), guided)
