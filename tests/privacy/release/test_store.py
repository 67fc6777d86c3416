"""Releases on disk: each image noised once, and the same bytes ever after."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.gaussian_noise import SecureNoise, SeededNoise
from fedpdiff.privacy.mechanism import clip, decode_integers
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.wire import encode

Make = Callable[..., Any]


def rows_of(release: Any) -> list[bytes]:
    """Return the rows of a release, label included, in an order of their own."""
    return sorted(row.tobytes() + bytes([label]) for row, label in zip(*_parts(release), strict=True))


def _parts(release: Any) -> tuple[Any, Any]:
    return release.integers, release.labels


def test_the_same_request_gives_the_same_bytes_and_no_new_row(
    site: Make, private: Make, no_noise: Any
) -> None:
    here = site()
    first = here.release(private(range(12)))
    outbox, rows = here.outbox(), here.rows()
    for order in (range(12), range(11, -1, -1)):
        again = here.release(private(order), no_noise)
        np.testing.assert_array_equal(first.integers, again.integers)
        np.testing.assert_array_equal(first.labels, again.labels)
        assert first.manifest == again.manifest
    assert here.outbox() == outbox and here.rows() == rows
    assert isinstance(first.integers, np.memmap) and first.integers.dtype == np.int16
    assert not first.integers.flags.writeable
    np.testing.assert_array_equal(here.store.read().integers, first.integers)


def test_two_sites_have_independent_noise(site: Make, private: Make) -> None:
    one, two = (site(name).release(private(range(12))) for name in "ab")
    assert not set(rows_of(one)) & set(rows_of(two))


def test_rows_and_labels_stay_together_in_random_order(site: Make, private: Make, level: Make) -> None:
    """Almost no noise, so that each row can be matched with its image."""
    mine = private(range(40))
    release = site(epsilon=1e9).release(mine, **level(1), clip=8.0)
    clean = clip(mine.images.pixels().numpy(), 0.0, 8.0).reshape(40, -1)
    distance = np.linalg.norm(decode_integers(release.integers).reshape(40, 1, -1) - clean, axis=2)
    source = distance.argmin(axis=1)
    assert sorted(source) == list(range(40)) and list(source) != list(range(40))
    np.testing.assert_array_equal(release.labels, mine.images.labels.numpy()[source])


def test_a_grown_data_set_noises_only_what_is_new(site: Make, private: Make) -> None:
    here = site()
    before = here.release(private(range(12)))
    drawn: list[int] = []

    class Counting(SecureNoise):
        def read(self, count: int) -> bytes:
            drawn.append(count)
            return super().read(count)

    grown = here.release(private(range(15)), Counting())
    assert drawn[0] == 8 * 3  # positions of three images
    assert sum(drawn) < 3 * (8 + 16 * 8)
    old, new = rows_of(before), rows_of(grown)
    assert len(new) == 15 and set(old) < set(new)
    assert here.counts()["noisings"] == 15 and here.counts()["batches"] == 2
    assert {count for count in np.bincount([row[1] for row in here.rows()["noisings"]])[1:]} == {1}


def test_new_images_lie_among_the_old_ones(site: Make, private: Make) -> None:
    """With 30 of 60 rows new, all of them at the end has a chance of 1e-17."""
    here = site()
    old = set(rows_of(here.release(private(range(30)))))
    grown = here.release(private(range(60)))
    is_old = [row.tobytes() + bytes([label]) in old for row, label in zip(*_parts(grown), strict=True)]
    assert sum(is_old) == 30 and is_old != sorted(is_old) and is_old != sorted(is_old, reverse=True)


def test_an_image_that_was_taken_out_is_no_longer_sent(site: Make, private: Make, no_noise: Any) -> None:
    here = site()
    whole = here.release(private(range(12)))
    spent = here.counts()["noisings"]
    part = here.release(private(range(1, 12)), no_noise)
    assert len(part.labels) == 11 and set(rows_of(part)) < set(rows_of(whole))
    assert len(here.store.read().labels) == 11
    assert here.counts()["noisings"] == spent
    back = here.release(private(range(12)), no_noise)
    np.testing.assert_array_equal(back.integers, whole.integers)
    assert back.manifest == whole.manifest


def test_another_label_is_another_release_of_the_same_noise(site: Make, private: Make, no_noise: Any) -> None:
    here = site()
    before = here.release(private(range(4)))
    after = here.release(private(range(4), labels=[2, 2, 2, 2]), no_noise)
    np.testing.assert_array_equal(before.integers, after.integers)
    assert after.labels.tolist() == [2] * 4 and after.manifest["class_counts"] == {"2": 4}


def test_duplicates_are_dropped_and_counted(site: Make, private: Make) -> None:
    here = site()
    release = here.release(private([5, 6, 5, 7, 5], labels=[0, 1, 2, 1, 2]))
    assert release.manifest["duplicates_dropped"] == 2
    assert sorted(release.labels) == [0, 1, 1]  # the first of each
    assert here.counts()["noisings"] == here.counts()["images"] == 3


def test_another_delta_only_states_the_same_noise_differently(
    site: Make, private: Make, no_noise: Any
) -> None:
    here = site()
    before = here.release(private(range(12)))
    after = here.release(private(range(12)), no_noise, delta=1e-6)
    np.testing.assert_array_equal(before.integers, after.integers)
    assert after.manifest["privacy"]["epsilon"] > before.manifest["privacy"]["epsilon"]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_another_wire_width_only_recodes(bits: int, site: Make, private: Make, no_noise: Any) -> None:
    here = site()
    exact = np.array(here.release(private(range(12))).integers)
    rows = here.rows()
    again = here.release(private(range(12)), no_noise)
    np.testing.assert_array_equal(encode(np.asarray(again.integers), bits), encode(exact, bits))
    assert here.rows() == rows


@pytest.mark.parametrize(
    "change",
    [
        (600, "linear", 1000),
        (690, "cosine", 1000),
        (690, "linear", 700),
        {"clip": 3.1},
        {"centre": np.full((1, 4, 4), 0.1, np.float32)},
        {"preprocessing": "fit = pad"},
    ],
    ids=["t0", "schedule", "steps", "clip", "centre", "preprocessing"],
)
def test_other_settings_are_another_noising(change: Any, site: Make, private: Make, level: Make) -> None:
    here = site()
    change = level(*change) if isinstance(change, tuple) else change
    before = here.release(private(range(12)))
    other = here.release(private(range(12)), **change)
    assert not set(rows_of(before)) & set(rows_of(other))
    assert here.counts()["noisings"] == 24 and here.counts()["images"] == 12
    np.testing.assert_array_equal(here.release(private(range(12))).integers, before.integers)
    assert here.counts()["noisings"] == 24


def test_seeded_noise_is_stamped_and_repeats(site: Make, private: Make) -> None:
    one, two = (site(n).release(private(range(12)), SeededNoise(1, "client"), noise="seeded") for n in "ab")
    np.testing.assert_array_equal(one.integers, two.integers)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.manifest["stamp"].startswith("NOT PRIVATE") and one.manifest["noise"] == "seeded"
    assert one.certificate is None
    other = site("c").release(private(range(12)), SeededNoise(2, "client"), noise="seeded")
    assert not np.array_equal(one.integers, other.integers)
    assert "stamp" not in site("d").release(private(range(12))).manifest
    with pytest.raises(PrivacyError, match="release-noise"):
        site("e").release(private(range(12)), SeededNoise(1))


@pytest.mark.parametrize("second", ["seeded", "secure"])
def test_nothing_is_noised_beside_seeded_noise(second: str, site: Make, private: Make) -> None:
    here = site()
    here.release(private(range(12)), SeededNoise(1), noise="seeded")
    noise = SeededNoise(1) if second == "seeded" else SecureNoise()
    with pytest.raises(PrivacyError, match="state folder"):
        here.release(private(range(13)), noise, noise=second)
    again = here.release(private(range(12)), SeededNoise(1), noise="seeded")
    assert len(again.labels) == 12


def test_nothing_on_disk_names_an_image_or_a_person(site: Make, private: Make) -> None:
    """Keys are made with each site's own secret; pixels and digests are in no file."""
    mine = private(range(12), persons=[f"patient {n % 5}" for n in range(12)])
    for name in "ab":
        site(name).release(mine)
    keys = [{row[1] for row in site(name).rows()["images"]} for name in "ab"]
    people = [{row[1] for row in site(name).rows()["shown"]} for name in "ab"]
    assert not keys[0] & keys[1] and len(keys[0]) == 12
    assert not people[0] & people[1] and len(people[0]) == 5
    secret = (site("a").root / "secret").read_bytes()
    hidden = [*mine.digests, b"patient", *(image.numpy().tobytes() for image in mine.images.images)]
    for path in site("a").root.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(text in content for text in hidden), path.name
        assert secret not in content or path.name == "secret"
        if path.parent.name == "outbox":
            assert not any(key in content or key.hex().encode() in content for key in keys[0])


def test_the_manifest_says_what_was_done(site: Make, private: Make) -> None:
    manifest = site().release(private(range(12))).manifest
    assert manifest["privacy"]["epsilon"] > 0 and manifest["class_counts"] == {"0": 4, "1": 4, "2": 4}
    assert (manifest["shape"], manifest["clip"], manifest["delta"]) == ([12, 1, 4, 4], 3.0, 1e-5)
    json.dumps(manifest, allow_nan=False)


def test_only_the_owner_can_read(site: Make, private: Make) -> None:
    here = site()
    here.release(private(range(12)))
    for path in [here.root, *here.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name
    own = ["ledger.sqlite", "lock", "outbox", "outbox-hashed.json", "secret"]
    assert sorted(p.name for p in here.root.iterdir()) == own


def test_no_images_no_release(site: Make, private: Make) -> None:
    here = site()
    with pytest.raises(PrivacyError, match="no images"):
        here.release(private([]))
    with pytest.raises(PrivacyError, match="no release yet"):
        here.store.read()
    assert not (here.root / "outbox").exists()


def test_lengths_are_checked(private: Make) -> None:
    mine = private(range(3))
    with pytest.raises(PrivacyError, match="3 images, but 2 digests"):
        PrivateImages(mine.images, mine.digests[:2])
    with pytest.raises(PrivacyError, match="3 images, but 1 persons"):
        PrivateImages(mine.images, mine.digests, ["a"])


def test_large_releases_are_noised_in_parts(
    site: Make, private: Make, level: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of two images give every image a noise of its own, and each its own signal."""
    from fedpdiff.privacy import making

    monkeypatch.setattr(making, "_CHUNK_VALUES", 32)
    mine = private(range(7))
    release = site(epsilon=1e9).release(mine, **level(1), clip=8.0)
    clean = clip(mine.images.pixels().numpy(), 0.0, 8.0).reshape(7, -1)
    distance = np.linalg.norm(decode_integers(release.integers).reshape(7, 1, -1) - clean, axis=2)
    assert sorted(distance.argmin(axis=1)) == list(range(7))
    assert torch.unique(torch.from_numpy(np.array(release.integers)).flatten(1), dim=0).shape[0] == 7
