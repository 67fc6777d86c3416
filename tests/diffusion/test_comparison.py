"""Which half knows images better above the hand-off, against the closed form of Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedpdiff.diffusion.comparison import extra_divergence
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.types import LabelledImages, to_uint8

T0 = 400
COUNT = 3000
CENTRE = torch.full((1, 2, 2), 0.1)


def divergence(true: Any, model: Any, share: float) -> float:
    """Return KL(true || model) of Gaussians, both seen through noise that leaves a share of signal."""
    p, q = true.noisy(share), model.noisy(share)
    inverse, offset = torch.linalg.inv(q.cov), q.mean - p.mean
    quadratic = torch.trace(inverse @ p.cov) + offset @ inverse @ offset - len(offset)
    return 0.5 * float(quadratic + torch.logdet(q.cov) - torch.logdet(p.cov))


@pytest.fixture
def half(describe: Any, exact_network: Any) -> Callable[..., Denoiser]:
    """Return a function that makes the half which is exact for one class of images."""

    def make(kind: str, images: Any, objective: str = "ambient") -> Denoiser:
        objective = "velocity" if kind == "personal" else objective
        config = describe(kind, objective=objective, image_shape=[1, 2, 2], t0=T0, hand_off=T0)
        centre = torch.zeros_like(CENTRE) if kind == "personal" else CENTRE
        return Denoiser(exact_network(config.chain(), [images.shifted(-centre)]), config, centre)

    return make


@pytest.mark.parametrize("objective", ["ambient", "noise"])
@pytest.mark.parametrize("offset", [0.15, -0.3])
def test_it_is_the_difference_of_divergences(
    offset: float, objective: str, half: Callable[..., Denoiser], gaussian: Any
) -> None:
    """Noise of COUNT images: 1 % of the divergence; trapezoids between 16 levels: 4 %."""
    wrong = gaussian.shifted(torch.full((4,), offset))
    generator = torch.Generator().manual_seed(1)
    pixels = to_uint8(gaussian.draw(COUNT, generator).float())
    images = LabelledImages(pixels, torch.zeros(COUNT, dtype=torch.int64))
    right, off = half("personal", gaussian), half("personal", wrong)
    alpha_bar = right.chain.alpha_bar
    lost = divergence(gaussian, wrong, float(alpha_bar[T0])) - divergence(
        gaussian, wrong, float(alpha_bar[1000])
    )
    # Where the global half is wrong the personal one is better, and the other way round.
    found = extra_divergence(half("continued", wrong, objective), right, images, generator)
    assert found == pytest.approx(lost, rel=0.06, abs=1e-3)
    assert extra_divergence(half("continued", gaussian, objective), off, images, generator) == pytest.approx(
        -lost, rel=0.06, abs=1e-3
    )
