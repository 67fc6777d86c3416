"""All attacks on releases of real images (digits): strong at low t0, below the caps at t0 = 690."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fedpdiff.attacks.attribute import gaussian_reader, read_attribute, train_network_reader
from fedpdiff.attacks.image_quality import Recovery, recovery, strongest
from fedpdiff.attacks.linear import GaussianImages, fit_gaussian, wiener
from fedpdiff.attacks.model_priors import clean_image_prior, entry, typical_shrink
from fedpdiff.attacks.reconstruction import ddim, maximum_a_posteriori, posterior_mean, tweedie
from fedpdiff.attacks.reidentification import reidentify
from fedpdiff.attacks.statistics import area_under_curve
from fedpdiff.attacks.upload_membership import attack_upload_membership
from fedpdiff.diffusion.batches import CleanImages
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.denoiser_config import DenoiserConfig
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import TrainingSettings, train_denoiser
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.gaussian_noise import SeededNoise
from fedpdiff.privacy.mechanism import clip, decode_integers, release_integers
from fedpdiff.rng import torch_generator
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages, to_uint8

SCHEDULE = NoiseSchedule("linear", 1000)
RADIUS = 4.0
CENTRE = torch.zeros(1, 8, 8)


@dataclass(frozen=True)
class Scene:
    """Pixels and labels of an attacker's public images, of members and of non-members."""

    public: np.ndarray
    public_labels: np.ndarray
    members: np.ndarray
    labels: np.ndarray
    others: np.ndarray

    def uploads(self, level: int) -> np.ndarray:
        noise = SeededNoise(3, "digits", level)
        return decode_integers(
            release_integers(self.members, 0.0, RADIUS, float(SCHEDULE.alpha_bar[level]), noise)
        )


@pytest.fixture(scope="module")
def scene() -> Scene:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = (digits.images[order] / 8 - 1).astype(np.float32)[:, None]
    y = digits.target[order].astype(np.int64)
    return Scene(x[:900], y[:900], x[900:1350], y[900:1350], x[1350:])


def clipped(pixels: np.ndarray) -> np.ndarray:
    return clip(pixels, 0.0, RADIUS)


def models(scene: Scene) -> tuple[GaussianImages, GaussianImages]:
    public = clipped(scene.public)
    return fit_gaussian(public, scene.public_labels), fit_gaussian(public)


def test_low_noise_gives_images_away_and_high_noise_keeps_below_the_caps(scene: Scene) -> None:
    by_class, population = models(scene)
    truth = clipped(scene.members)
    found = {}
    for level in (200, 690):
        share = float(SCHEDULE.alpha_bar[level])
        uploads, mu = scene.uploads(level), mu_of(share, RADIUS)
        who = reidentify(uploads, truth, share**0.5, mu)
        in_class = reidentify(uploads, truth, share**0.5, mu, scene.labels)
        assert not who.exceeds_cap() and not in_class.exceeds_cap()
        assert who.found.hits <= in_class.found.hits
        tried = (clipped(scene.members), clipped(scene.others))
        scores = [attack_upload_membership(population, u, uploads, share) for u in tried]
        auc = area_under_curve(*scores, confidence=0.999)
        estimate = wiener(by_class, uploads, scene.labels, share)
        score = recovery(estimate, truth, by_class.prior_guess(scene.labels))
        found[level] = who, in_class, auc, score
    who, in_class, auc, score = found[200]
    assert who.rate > 100 * who.chance and in_class.rate > 5 * in_class.chance
    assert auc.low > 0.55 and score.score < 0.8
    who, in_class, auc, score = found[690]
    assert who.found.interval(0.999).low < who.chance
    assert auc.low < 0.5 < auc.high
    assert score.score > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("level", [200, 690])
def test_a_denoiser_of_public_images_reconstructs_uploads_of_low_noise_only(
    scene: Scene, trained: Denoiser, level: int
) -> None:
    by_class, _ = models(scene)
    share, truth = float(SCHEDULE.alpha_bar[level]), torch.from_numpy(clipped(scene.members[:200])).float()
    uploads = torch.from_numpy(scene.uploads(level)[:200])
    labels = torch.from_numpy(scene.labels[:200])
    prior = clean_image_prior(trained)
    door = entry(prior, share, typical_shrink(torch.from_numpy(scene.public), CENTRE, RADIUS), CENTRE)
    assert door.level > level
    y, generator = door.enter(uploads), torch_generator(1, "test")
    estimates = {
        "tweedie": tweedie(prior, y, door.level, labels),
        "ddim": ddim(prior, y, door.level, labels, steps=25),
        "posterior mean": posterior_mean(prior, y, door.level, labels, generator, samples=8, steps=25),
        "map": maximum_a_posteriori(prior, y, door.level, labels),
    }
    guess = by_class.prior_guess(labels)
    scores: dict[str, Recovery] = {k: recovery(door.leave(v), truth, guess) for k, v in estimates.items()}
    linear = recovery(wiener(by_class, uploads, labels, share), truth, guess)
    _, best = strongest(scores)
    if level == 200:
        assert best.score < linear.score + 4 * (best.standard_error + linear.standard_error)
        assert best.score < 0.8
    else:
        assert best.score > 0.95
        assert scores["ddim"].score > 1.2


@pytest.mark.slow
def test_the_class_is_read_from_single_uploads_of_low_noise(scene: Scene) -> None:
    public = clipped(scene.public)
    for level, least in ((200, 0.6), (690, 0.0)):
        share = float(SCHEDULE.alpha_bar[level])
        readers = {
            "gaussian": gaussian_reader(models(scene)[0], share),
            "network": train_network_reader(public, scene.public_labels, share, torch_generator(2, "test")),
        }
        for reader in readers.values():
            found = read_attribute(reader, scene.uploads(level), scene.labels, mu_of(share, RADIUS))
            assert found.right.interval(0.999).low < found.cap
            assert found.accuracy > least


@pytest.fixture(scope="module")
def trained(scene: Scene) -> Denoiser:
    """Return a small class-conditional denoiser of the public images."""
    config = DenoiserConfig.model_validate(
        {
            "kind": "personal",
            "objective": "noise",
            "schedule": "linear",
            "diffusion_steps": 1000,
            "t0": 690,
            "hand_off": 690,
            "last": 1000,
            "class_names": [str(i) for i in range(10)],
            "image_shape": [1, 8, 8],
            "clip": RADIUS,
        }
    )
    network = build_network("tiny", (1, 8, 8), 10, seed=1)
    settings = TrainingSettings(1000, 64, 3e-3, 100, 0.99, 1.0)
    public = LabelledImages(to_uint8(torch.from_numpy(scene.public)), torch.from_numpy(scene.public_labels))
    batches = CleanImages(public, balance=0.0)
    train_denoiser(network, config.chain(), batches, settings, torch_generator(1, "training"))
    return Denoiser(network, config, CENTRE)
