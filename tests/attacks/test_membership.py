"""Membership attacks: equal a re-computation, at chance on an exact model, succeed on an overfitted one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from fedpdiff.attacks.membership import (
    Levels,
    Setting,
    clean_noise_predictor,
    loss_threshold,
    pia,
    pian,
    secmi,
    sima,
    start_noise_predictor,
)
from fedpdiff.attacks.membership_suite import (
    ATTACKS,
    LOSS,
    PIA,
    SECMI,
    SIMA,
    Grid,
    default_grid,
    judge,
    score_images,
)
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.denoiser_config import DenoiserConfig
from fedpdiff.diffusion.training import TrainingSettings, train_denoiser
from fedpdiff.errors import ConfigError, DataError
from fedpdiff.rng import numpy_generator, torch_generator

T0 = 300
SHAPE = (1, 4, 4)
KINDS = [
    ("personal", "velocity"),
    ("personal", "noise"),
    ("continued", "ambient"),
    ("continued", "noise"),
    ("nested", "ambient"),
]


def make_denoiser(kind: str, objective: str, last: int = 1000, seed: int = 1) -> Denoiser:
    config = DenoiserConfig.model_validate(
        {
            "kind": kind,
            "objective": objective,
            "schedule": "linear",
            "diffusion_steps": 1000,
            "t0": T0,
            "hand_off": T0,
            "last": last,
            "class_names": ["a", "b"],
            "image_shape": list(SHAPE),
            "clip": 3.0,
        }
    )
    torch.manual_seed(seed)
    network = UNet2DModel(
        sample_size=4,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=2,
    )
    return Denoiser(network.eval(), config, torch.zeros(SHAPE))


def by_hand(denoiser: Denoiser) -> tuple[Any, np.ndarray]:
    """Return E[e | x_t] of one image at diffusers' timestep t, and the r_t behind it."""
    betas = np.linspace(1e-4, 0.02, 1000)
    schedule = np.cumprod(1 - betas)
    at_t0 = schedule[T0 - 1]
    kind = denoiser.config.kind
    ratio = schedule / at_t0 if kind == "continued" else schedule
    share = {"personal": 1.0, "continued": at_t0, "nested": at_t0}[kind]

    def noise(x_t: np.ndarray, t: int, label: int) -> np.ndarray:
        with torch.no_grad():
            output = denoiser.network(
                torch.from_numpy(x_t).float()[None], torch.tensor(t), class_labels=torch.tensor([label])
            ).sample
        h, r = output[0].double().numpy(), ratio[t]
        if denoiser.config.objective == "noise":
            return h
        if denoiser.config.objective == "velocity":  # h = sqrt(r) e - sqrt(1 - r) y
            return math.sqrt(r) * h + math.sqrt(1 - r) * x_t
        # y = sqrt(share) u + sqrt(1 - share) z and x_t = sqrt(r) y + sqrt(1 - r) e, with E[u | x_t] = h:
        # e and z are both in x_t - sqrt(r share) h, and e has its share of that variance.
        variance = r * (1 - share) + (1 - r)
        return (x_t - math.sqrt(r * share) * h) * math.sqrt(1 - r) / variance

    return noise, ratio


@pytest.fixture
def images() -> torch.Tensor:
    return 0.5 * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2))


LABELS = torch.tensor([0, 1, 1])


@pytest.mark.parametrize(("kind", "objective"), KINDS)
def test_attacks_equal_a_recomputation_image_by_image(
    kind: str, objective: str, images: torch.Tensor
) -> None:
    denoiser = make_denoiser(kind, objective)
    levels = Levels.of(denoiser.chain)
    first = T0 if kind == "continued" else 0
    assert (levels.first, levels.last) == (first, 999)
    predict, t = start_noise_predictor(denoiser, LABELS), first + 100
    with torch.no_grad():
        found = {
            "pia": pia(predict, images, levels, [t], (4.0, 2.0)),
            "pian": pian(predict, images, levels, [t], (4.0,)),
            "secmi": secmi(predict, images, levels, [first + 40, first + 20], 10),
            "sima": sima(predict, images, levels, [t], (4.0,)),
            "loss": loss_threshold(predict, images, levels, [t], torch_generator(1), 3),
        }
    noise, ratio = by_hand(denoiser)
    draws = torch_generator(1)
    common = [torch.randn(SHAPE, generator=draws).double().numpy() for _ in range(3)]

    def ddim(x: np.ndarray, now: int, to: int, label: int) -> np.ndarray:
        e = noise(x, now, label)
        start = (x - math.sqrt(1 - ratio[now]) * e) / math.sqrt(ratio[now])
        return math.sqrt(ratio[to]) * start + math.sqrt(1 - ratio[to]) * e

    for row, (image, label) in enumerate(zip(images.double().numpy(), LABELS.tolist(), strict=True)):
        e0 = noise(image, first, label)
        x_t = math.sqrt(ratio[t]) * image + math.sqrt(1 - ratio[t]) * e0
        want = {("pia", t, p): (np.abs(e0 - noise(x_t, t, label)) ** p).sum() for p in (2.0, 4.0)}
        scaled = e0 / np.abs(e0).mean() * math.sqrt(2 / math.pi)
        x_t = math.sqrt(ratio[t]) * image + math.sqrt(1 - ratio[t]) * scaled
        want["pian", t, 4.0] = (np.abs(scaled - noise(x_t, t, label)) ** 4).sum()
        want["sima", t, 4.0] = (noise(image, t, label) ** 4).sum()
        losses = []
        for e in common:
            x_t = math.sqrt(ratio[t]) * image + math.sqrt(1 - ratio[t]) * e
            losses.append(((noise(x_t, t, label) - e) ** 2).sum())
        want["loss", t, 2.0] = np.mean(losses)
        for end in (20, 40):
            x = image
            for now in range(first, first + end, 10):
                x = ddim(x, now, now + 10, label)
            back = ddim(ddim(x, first + end, first + end + 10, label), first + end + 10, first + end, label)
            want["secmi", first + end, 2.0] = ((back - x) ** 2).sum()
        for (name, level, power), value in want.items():
            got = float(found[name][Setting(level, power)][row])
            assert got == pytest.approx(value, rel=2e-2 if name == "secmi" else 1e-3), (name, level, power)


@pytest.mark.parametrize(("kind", "objective"), KINDS)
def test_noise_relative_to_the_clean_image(kind: str, objective: str, images: torch.Tensor) -> None:
    denoiser = make_denoiser(kind, objective)
    t = 700
    share = float(denoiser.chain.alpha_bar[t + 1])
    assert float(Levels.of_clean_images(denoiser.chain).ratio[t]) == share
    with torch.no_grad():
        total = clean_noise_predictor(denoiser, LABELS)(images, t)
        clean = denoiser.clean_clipped(images, t + 1, LABELS)
        relative = start_noise_predictor(denoiser, LABELS)(images, t)
    torch.testing.assert_close(math.sqrt(share) * clean + math.sqrt(1 - share) * total, images)
    # The noise since the start image is a part of it, in proportion to its variance.
    ratio = float(denoiser.chain.ratio[t + 1])
    torch.testing.assert_close(relative, total * math.sqrt((1 - ratio) / (1 - share)), atol=1e-4, rtol=1e-4)


def test_levels_that_were_never_trained_are_refused(images: torch.Tensor) -> None:
    denoiser = make_denoiser("continued", "ambient")
    levels, predict = Levels.of(denoiser.chain), start_noise_predictor(denoiser, LABELS)
    with pytest.raises(ConfigError, match=f"level t = 100 of the attack: must be between {T0} and 999"):
        pia(predict, images, levels, [100])
    with pytest.raises(ConfigError, match="level t = 1000"):
        secmi(predict, images, levels, [990], 10)
    with pytest.raises(ConfigError, match="whole steps of 10 above 300"):
        secmi(predict, images, levels, [305], 10)


def test_the_grid_stays_within_the_levels() -> None:
    for kind, last, first in (("personal", 1000, 0), ("personal", 150, 0), ("continued", 1000, T0)):
        levels = Levels.of(make_denoiser(kind, "noise", last).chain)
        grid = default_grid(levels)
        assert all(
            first < t < last
            for t in (*grid.ts, *grid.loss_ts, *grid.secmi_ts, grid.secmi_ts[-1] + grid.stride)
        )
        assert grid.draws >= 10
    top = default_grid(Levels(levels.ratio, 997, 999))
    assert (top.ts, top.loss_ts, top.secmi_ts, top.stride) == ((999,), (999,), (), 0)
    with pytest.raises(ConfigError, match="one level"):
        default_grid(Levels(levels.ratio, 999, 999))


class ExactGaussian:
    """The best possible denoiser of images N(mean, diag(variance)): it knows the distribution, no image."""

    def __init__(self, levels: Levels) -> None:
        generator = torch.Generator().manual_seed(3)
        self.levels = levels
        self.mean = torch.randn(SHAPE, generator=generator)
        self.variance = 0.05 + torch.rand(SHAPE, generator=generator)

    def draw(self, count: int, seed: int) -> torch.Tensor:
        noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
        return self.mean + self.variance.sqrt() * noise

    def predict(self, x_t: torch.Tensor, t: int) -> torch.Tensor:
        r = float(self.levels.ratio[t])
        return (1 - r) ** 0.5 * (x_t - r**0.5 * self.mean) / (r * self.variance + 1 - r)


@pytest.mark.parametrize("kind", ["personal", "continued"])
def test_a_model_that_knows_the_distribution_only_gives_chance(kind: str) -> None:
    """False-alarm rate 1e-3: ten AUCs, each with standard error sqrt(1 / (6 * 500)), within 4.1 of it."""
    exact = ExactGaussian(Levels.of(make_denoiser(kind, "noise").chain))
    grid = default_grid(exact.levels)
    scores = [
        score_images(
            lambda _: exact.predict, exact.levels, exact.draw(1000, seed), torch.zeros(1000), grid, 1
        )
        for seed in (1, 2)
    ]
    assert list(scores[0]) == list(ATTACKS)
    for name in ATTACKS:
        found = judge(name, scores[0][name], scores[1][name], numpy_generator(1, "halves"))
        assert abs(found.report.auc.value - 0.5) < 4.1 * (1 / (6 * 500)) ** 0.5, name
        assert (found.report.members, found.report.non_members) == (500, 500)


class Few:
    """Draws from a few images, over and over."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def draw(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.randint(len(self.images), (size,), generator=generator)
        return self.images[index], self.labels[index]


@pytest.mark.parametrize(
    ("kind", "objective", "attacks"),
    # On so small a network of clean images, SecMI and PIAN, which build on its own prediction, go astray.
    [("personal", "noise", (PIA, LOSS, SIMA)), ("continued", "ambient", ATTACKS)],
)
def test_an_overfitted_model_gives_its_images_away(
    kind: str, objective: str, attacks: tuple[str, ...]
) -> None:
    """And images that it was not trained on do not pass for members."""
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(80, *SHAPE, generator=generator) * 2 - 1
    labels = torch.arange(80) % 2
    denoiser = make_denoiser(kind, objective)
    # Only the levels that are attacked: the network has little time and no more capacity than it needs.
    chain = denoiser.chain = replace(denoiser.chain, last=denoiser.chain.first + 310)
    start = chain.start**0.5 * images  # a global half here gets uploads without their noise
    settings = TrainingSettings(300, 32, 5e-3, 20, 0.98, 1.0)
    train_denoiser(denoiser.network, chain, Few(start[:12], labels[:12]), settings, generator)
    levels = Levels.of(chain)
    found = score_images(
        lambda classes: start_noise_predictor(denoiser, classes),
        levels,
        start,
        labels,
        default_grid(levels),
        1,
        attacks,
    )

    def auc(attack: str, inside: slice, outside: slice) -> float:
        sides = [{s: v[rows] for s, v in found[attack].items()} for rows in (inside, outside)]
        return judge(attack, *sides, numpy_generator(1, "halves")).report.auc.value

    for attack in attacks:
        assert auc(attack, slice(0, 12), slice(12, 80)) > 0.9, attack
        # Chance, within 4 standard errors of 17 scores against 17
        assert abs(auc(attack, slice(12, 46), slice(46, 80)) - 0.5) < 4 * (35 / (12 * 17 * 17)) ** 0.5, attack


def test_settings_are_chosen_on_one_half_and_judged_on_the_other() -> None:
    """False-alarm rate 1e-5: 100 AUCs of 15 against 15 scores, each with a standard error of 0.106."""
    rng = np.random.default_rng(8)
    settings = [Setting(t, 2.0) for t in range(20)]

    def draw() -> dict[Setting, torch.Tensor]:
        return {setting: torch.from_numpy(rng.normal(size=30)) for setting in settings}

    # Settings without any information: the best of them looks good on the scores that chose it only.
    found = [judge(PIA, draw(), draw(), rng).report.auc.value for _ in range(100)]
    assert abs(np.mean(found) - 0.5) < 4.5 * 0.0106
    members, non_members = draw(), draw()
    # One setting that does tell is found.
    members[Setting(99, 4.0)] = torch.arange(30.0) - 100
    non_members[Setting(99, 4.0)] = torch.arange(30.0)
    best = judge(PIA, members, non_members, np.random.default_rng(1))
    assert (best.setting, best.report.auc.value, best.report.members) == (Setting(99, 4.0), 1.0, 15)
    with pytest.raises(DataError, match="at least 4 of each"):
        judge(PIA, {s: v[:3] for s, v in members.items()}, non_members, rng)


def test_batches_change_nothing(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = make_denoiser("personal", "noise")
    levels = Levels.of(denoiser.chain)
    grid = Grid((20, 50), (50,), (20,), 10, (4.0,), 2)

    def run(done: list[tuple[int, int]]) -> dict[str, dict[Setting, torch.Tensor]]:
        return score_images(
            lambda labels: start_noise_predictor(denoiser, labels),
            levels,
            images,
            LABELS,
            grid,
            1,
            (LOSS, SECMI, PIA),
            progress=lambda *step: done.append(step),
        )

    steps: list[tuple[int, int]] = []
    whole = run(steps)
    monkeypatch.setattr("fedpdiff.attacks.membership_suite._BATCH", 2)
    parts = run(steps)
    assert steps == [(3, 3), (2, 3), (3, 3)]
    for attack, scores in whole.items():
        for setting, values in scores.items():
            torch.testing.assert_close(parts[attack][setting], values, rtol=1e-3, atol=1e-9)
