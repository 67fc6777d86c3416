"""Which image is behind which row: what only the owner can find out, for attacks on its own release."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.mechanism import clip, decode_integers
from fedpdiff.privacy.row_images import images_of_rows
from fedpdiff.schedule import NoiseSchedule

LITTLE_NOISE = 3  # so little that each row shows its image
SHARE = float(NoiseSchedule("linear", 1000).alpha_bar[LITTLE_NOISE])


@pytest.fixture
def released(site: Callable[..., Any], private: Callable[..., Any]) -> Any:
    def release(numbers: list[int]) -> tuple[Any, Any, Any]:
        place, images = site(epsilon=1e6), private(numbers)
        return place, images, place.release(images, t0=LITTLE_NOISE, alpha_bar=SHARE)

    return release


def test_rows_are_traced_to_their_images(released: Any) -> None:
    place, images, release = released(list(range(20)))
    rows = images_of_rows(place.root, images.digests)
    assert sorted(rows) == list(range(20))
    assert rows.tolist() != list(range(20))  # random order: chance 1 / 20!
    truth = SHARE**0.5 * clip(images.images.pixels().numpy()[rows], 0.0, 3.0)
    assert np.abs(decode_integers(release.integers) - truth).max() < 0.3
    assert images.images.labels.numpy()[rows].tolist() == release.labels.tolist()


def test_rows_are_those_of_what_was_sent_last(released: Any, private: Callable[..., Any]) -> None:
    place, _, _ = released(list(range(6)))
    grown = private([3, 7, 1, 7, 0])  # some taken out, one new, one of them twice
    release = place.release(grown, t0=LITTLE_NOISE, alpha_bar=SHARE)
    rows = images_of_rows(place.root, grown.digests)
    assert sorted(rows) == [0, 1, 2, 4]  # of the duplicates the first
    assert grown.images.labels.numpy()[rows].tolist() == release.labels.tolist()


def test_nothing_is_made_up(released: Any, private: Callable[..., Any], tmp_path: Any) -> None:
    place, _, _ = released([1, 2, 3])
    with pytest.raises(PrivacyError, match=r"1 of the 3 images of the release .* are not among the 2 given"):
        images_of_rows(place.root, private([1, 3]).digests)
    with pytest.raises(PrivacyError, match="holds no release whose order a ledger knows"):
        images_of_rows(tmp_path / "nowhere", private([1]).digests)
    before = {path: path.read_bytes() for path in place.root.rglob("*") if path.is_file()}
    images_of_rows(place.root, private([1, 2, 3]).digests)
    assert {path: path.read_bytes() for path in place.root.rglob("*") if path.is_file()} == before
