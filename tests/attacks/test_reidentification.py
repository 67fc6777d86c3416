"""Re-identification on galleries made to be worst cases: at most the cap, and close to it."""

from __future__ import annotations

import numpy as np
import pytest

from fedpdiff.attacks.reidentification import NO_GROUP, Reidentification, random_groups, reidentify
from fedpdiff.errors import ConfigError, DataError
from fedpdiff.privacy import ceilings
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.gaussian_noise import SeededNoise
from fedpdiff.privacy.mechanism import decode_integers, release_integers
from fedpdiff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule("linear", 1000)
RADIUS = 1.9


def simplex(count: int) -> np.ndarray:
    """``count`` images of norm RADIUS, all equally far from each other: the hardest to confuse."""
    corners = np.eye(count) - 1 / count
    spread = np.repeat(corners, 4, axis=1)  # over several pixels, so that none is beyond 1
    return RADIUS * spread / np.linalg.norm(spread, axis=1, keepdims=True)


def release(images: np.ndarray, level: int, repeats: int, noise: float = 1.0) -> Reidentification:
    """Re-identify ``repeats`` releases of a gallery, made by the real release code."""
    share = float(SCHEDULE.alpha_bar[level])
    count = len(images)
    gallery = np.tile(images, (repeats, 1))
    integers = release_integers(gallery[:, None, None], 0.0, RADIUS, share, SeededNoise(1, "test", level))
    uploads = decode_integers(integers).reshape(gallery.shape)
    uploads = share**0.5 * gallery + noise * (uploads - share**0.5 * gallery)
    groups = np.repeat(np.arange(repeats), count)
    return reidentify(uploads, gallery, share**0.5, mu_of(share, RADIUS), groups)


@pytest.mark.parametrize("level", [200, 300, 400, 600])
@pytest.mark.parametrize("count", [2, 10, 100])
def test_the_worst_gallery_stays_below_the_cap_and_comes_close(level: int, count: int) -> None:
    found = release(simplex(count), level, repeats=6000 // count)
    assert not found.exceeds_cap()
    # Two opposite images attain the cap exactly; more can only be equally far from each other.
    assert found.found.interval(0.999).high > (1.0 if count == 2 else 0.75) * found.cap
    assert found.chance == pytest.approx(1 / count)
    assert found.cap == pytest.approx(
        ceilings.reidentification(mu_of(float(SCHEDULE.alpha_bar[level]), RADIUS), count)
    )


def test_too_little_noise_exceeds_the_cap() -> None:
    """The mutation that the test above must catch: noise of 0.8 times the size."""
    assert release(simplex(2), 300, repeats=6000, noise=0.8).exceeds_cap()


def test_without_noise_everyone_is_found_and_with_noise_alone_nobody() -> None:
    gallery = np.random.default_rng(0).standard_normal((500, 20))
    assert reidentify(0.5 * gallery, gallery, 0.5, 100.0).rate == 1
    noise = np.random.default_rng(1).standard_normal((500, 20))
    blind = reidentify(noise, gallery, 0.5, 0.01)
    assert blind.found.interval(0.999).low < blind.chance == 1 / 500
    assert not blind.exceeds_cap()


def test_the_scale_of_the_candidates_matters() -> None:
    """An upload holds a u; compared with u itself, images of small norm would attract everything."""
    rng = np.random.default_rng(2)
    gallery = rng.standard_normal((300, 30)) * rng.uniform(0.2, 1.5, (300, 1))
    uploads = 0.4 * gallery + 0.05 * rng.standard_normal(gallery.shape)
    assert reidentify(uploads, gallery, 0.4, 50.0).rate > reidentify(uploads, gallery, 1.0, 50.0).rate + 0.1


def test_equal_images_cannot_be_told_apart() -> None:
    gallery = np.ones((50, 4))
    found = reidentify(gallery, gallery, 1.0, 3.0)
    assert found.found.hits == 1


def test_groups_are_matched_apart_and_weighted_by_their_images() -> None:
    gallery = np.zeros((7, 2))
    gallery[:, 0] = [0, 0, 0, 1, 2, 5, 0]
    groups = np.array([0, 1, 2, 2, 2, NO_GROUP, NO_GROUP])
    found = reidentify(gallery, gallery, 1.0, 1.5, groups)
    assert (found.found.hits, found.found.trials) == (5, 5)
    assert found.candidates == pytest.approx((1 + 1 + 3 * 3) / 5)
    assert found.chance == pytest.approx(3 / 5)
    assert found.cap == pytest.approx((1 + 1 + 3 * ceilings.reidentification(1.5, 3)) / 5)


def test_random_galleries_have_exactly_their_size() -> None:
    groups = random_groups(1003, 10, np.random.default_rng(3))
    sizes = np.bincount(groups[groups != NO_GROUP])
    assert sizes.tolist() == [10] * 100
    assert (groups == NO_GROUP).sum() == 3
    assert not np.array_equal(groups, random_groups(1003, 10, np.random.default_rng(4)))


def test_what_does_not_fit_together_is_refused() -> None:
    gallery = np.zeros((4, 2))
    with pytest.raises(DataError, match="matched to a gallery"):
        reidentify(gallery, gallery[:3], 1.0, 1.0)
    with pytest.raises(DataError, match="every row was left out"):
        reidentify(gallery, gallery, 1.0, 1.0, np.full(4, NO_GROUP))
    with pytest.raises(ConfigError, match="galleries of 5"):
        random_groups(4, 5, np.random.default_rng(0))
