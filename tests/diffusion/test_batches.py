"""What training draws: classes equally often, clipped images with their flag, uploads as they are."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from fedpdiff.diffusion.batches import CleanImages, ClipMixedImages, LabelDropout, Uploads, class_weights
from fedpdiff.errors import DataError
from fedpdiff.types import LabelledImages

COUNTS = {0: 200, 1: 20, 3: 2}  # class 2 has no image
DRAWS = 3000
LEAST_P = 1e-3  # the false-alarm rate of each statistical test here


def uneven() -> LabelledImages:
    """Images whose pixel is 10 times their class."""
    labels = torch.cat([torch.full((count,), label) for label, count in COUNTS.items()])
    return LabelledImages((labels * 10).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), labels)


def p_value(labels: torch.Tensor) -> float:
    """Return the chi-square p-value of "all three classes are drawn equally often"."""
    counts = torch.bincount(labels, minlength=4)
    assert counts[2] == 0
    return float(chisquare(counts[[0, 1, 3]].numpy()).pvalue)


def test_balanced_draws_every_class_equally_often_and_uniform_does_not() -> None:
    def draw(balance: float) -> torch.Tensor:
        pixels, labels = CleanImages(uneven(), balance).draw(DRAWS, torch.Generator().manual_seed(1))
        assert pixels.dtype == torch.float32
        torch.testing.assert_close(pixels[:, 0, 0, 0], labels * 10 / 127.5 - 1)
        return labels

    assert p_value(draw(1.0)) > LEAST_P
    uniform = draw(0.0)
    assert p_value(uniform) < 1e-30
    shares = torch.tensor(list(COUNTS.values())).double() / sum(COUNTS.values())
    counts = torch.bincount(uniform)[[0, 1, 3]].numpy()
    assert chisquare(counts, (shares * DRAWS).numpy()).pvalue > LEAST_P


def test_weights_are_probabilities() -> None:
    for balance in (1.0, 0.5, 0.0):
        assert float(class_weights(uneven().labels, balance).sum()) == pytest.approx(1.0)


def test_uploads_are_drawn_balanced_and_unchanged() -> None:
    images = uneven()
    values = torch.randn(len(images), 1, 2, 2, generator=torch.Generator().manual_seed(2)) * 3
    start, labels = Uploads(values, images.labels).draw(DRAWS, torch.Generator().manual_seed(3))
    assert p_value(labels) > LEAST_P
    owner = {float(value[0, 0, 0]): int(label) for value, label in zip(values, images.labels, strict=True)}
    assert [owner[float(x[0, 0, 0])] for x in start] == labels.tolist()


def test_half_of_the_batch_is_clipped_and_flagged() -> None:
    """Each of 3,000 images is clipped with probability 1/2; 3.3 standard deviations: rate 1e-3."""
    clean = CleanImages(uneven(), 1.0)
    mixed = ClipMixedImages(clean, 4, lambda pixels: pixels / 2 + 3)
    pixels, flagged = mixed.draw(DRAWS, torch.Generator().manual_seed(4))
    labels, unclipped = flagged % 4, flagged >= 4
    assert int(flagged.max()) < 8
    assert p_value(labels) > LEAST_P
    assert abs(int(unclipped.sum()) - DRAWS / 2) < 3.3 * (DRAWS / 4) ** 0.5
    whole = labels * 10 / 127.5 - 1
    torch.testing.assert_close(pixels[:, 0, 0, 0], torch.where(unclipped, whole, whole / 2 + 3))


def test_a_share_of_the_labels_is_hidden() -> None:
    """Hidden with probability 0.2 each; 3.3 standard deviations: rate 1e-3."""
    clean = CleanImages(uneven(), 1.0)
    pixels, labels = LabelDropout(clean, 0.2, hidden=4).draw(DRAWS, torch.Generator().manual_seed(5))
    hidden = labels == 4
    assert abs(int(hidden.sum()) - 0.2 * DRAWS) < 3.3 * (DRAWS * 0.2 * 0.8) ** 0.5
    assert p_value(labels[~hidden]) > LEAST_P
    seen = ((pixels[:, 0, 0, 0] + 1) * 12.75).round().long()
    assert torch.equal(seen[~hidden], labels[~hidden])
    assert p_value(seen[hidden]) > LEAST_P  # of every class alike


def test_no_images() -> None:
    empty = LabelledImages(torch.zeros(0, 1, 2, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="no images to train on"):
        CleanImages(empty, 1.0)


def test_more_images_than_can_be_drawn_from() -> None:
    class_weights(torch.zeros(2**24, dtype=torch.int64), 1.0)
    with pytest.raises(DataError, match=r"there are 16777217 images .* at most 16777216"):
        class_weights(torch.zeros(2**24 + 1, dtype=torch.int64), 1.0)
