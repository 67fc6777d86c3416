"""The release on disk: once, the same ever after, and never half."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.gaussian_noise import SecureNoise, SeededNoise
from fedpdiff.privacy.mechanism import clip, decode_integers
from fedpdiff.privacy.release import ReleaseRequest, ReleaseStore
from fedpdiff.types import LabelledImages

REQUEST = ReleaseRequest(
    t0=690,
    alpha_bar=0.0080155,
    clip=3.0,
    centre=np.zeros((1, 4, 4), np.float32),
    schedule="linear",
    diffusion_steps=1000,
    delta=1e-5,
    noise="secure",
)


def _images(n: int = 12, seed: int = 0) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, 4, 4), generator=generator).to(torch.uint8)
    return LabelledImages(pixels, torch.arange(n) % 3)


def test_the_same_request_gives_the_same_bytes(tmp_path: Path) -> None:
    images = _images()
    first = ReleaseStore(tmp_path / "store").get_or_make(REQUEST, images, SecureNoise())
    bytes_on_disk = (tmp_path / "store/release/release.npy").read_bytes()
    reversed_images = images.select(torch.arange(len(images) - 1, -1, -1))
    for again in (images, reversed_images):
        second = ReleaseStore(tmp_path / "store").get_or_make(REQUEST, again, SecureNoise())
        np.testing.assert_array_equal(first.integers, second.integers)
        np.testing.assert_array_equal(first.labels, second.labels)
        assert first.manifest == second.manifest
    assert (tmp_path / "store/release/release.npy").read_bytes() == bytes_on_disk
    assert isinstance(first.integers, np.memmap) and first.integers.dtype == np.int16
    assert not first.integers.flags.writeable


def test_two_stores_have_independent_noise(tmp_path: Path) -> None:
    one, two = (ReleaseStore(tmp_path / name).get_or_make(REQUEST, _images(), SecureNoise()) for name in "ab")
    assert not np.array_equal(np.sort(one.integers, axis=None), np.sort(two.integers, axis=None))


def test_rows_and_labels_stay_together_in_random_order(tmp_path: Path) -> None:
    """Almost no noise, so that each row can be matched with its image."""
    images = _images(40)
    request = dataclasses.replace(REQUEST, alpha_bar=0.9999, clip=8.0)
    release = ReleaseStore(tmp_path).get_or_make(request, images, SecureNoise())
    clean = clip(images.pixels().numpy(), 0.0, 8.0).reshape(40, -1)
    distance = np.linalg.norm(decode_integers(release.integers).reshape(40, 1, -1) - clean, axis=2)
    source = distance.argmin(axis=1)
    assert sorted(source) == list(range(40)) and list(source) != list(range(40))
    np.testing.assert_array_equal(release.labels, images.labels.numpy()[source])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"t0": 600}, "t0"),
        ({"alpha_bar": 0.02}, "alpha_bar"),
        ({"clip": 3.1}, "clip"),
        ({"centre": np.full((1, 4, 4), 0.1, np.float32)}, "centre_sha256"),
        ({"schedule": "cosine"}, "schedule"),
        ({"diffusion_steps": 500}, "diffusion_steps"),
        ({"delta": 1e-6}, "delta"),
    ],
)
def test_another_request_is_refused_by_name(tmp_path: Path, change: dict[str, object], named: str) -> None:
    store = ReleaseStore(tmp_path)
    store.get_or_make(REQUEST, _images(), SecureNoise())
    with pytest.raises(PrivacyError, match=rf"{named} .*second release would spend more"):
        store.get_or_make(dataclasses.replace(REQUEST, **change), _images(), SecureNoise())


def test_other_images_are_refused(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.get_or_make(REQUEST, _images(), SecureNoise())
    images = _images()
    other_labels = LabelledImages(images.images, (images.labels + 1) % 3)
    for other in (_images(seed=1), _images(n=11), other_labels):
        with pytest.raises(PrivacyError, match="the private images"):
            store.get_or_make(REQUEST, other, SecureNoise())


def test_seeded_noise_is_stamped_and_repeats(tmp_path: Path) -> None:
    request = dataclasses.replace(REQUEST, noise="seeded")
    one, two = (
        ReleaseStore(tmp_path / n).get_or_make(request, _images(), SeededNoise(1, "client", 0)) for n in "ab"
    )
    np.testing.assert_array_equal(one.integers, two.integers)
    assert one.manifest["stamp"].startswith("NOT PRIVATE") and one.manifest["noise"] == "seeded"
    secure = ReleaseStore(tmp_path / "c").get_or_make(REQUEST, _images(), SecureNoise())
    assert "stamp" not in secure.manifest and secure.manifest["noise"] == "secure"
    with pytest.raises(PrivacyError, match="release-noise"):
        ReleaseStore(tmp_path / "d").get_or_make(REQUEST, _images(), SeededNoise(1))


def test_the_manifest_tells_nothing_about_the_images(tmp_path: Path) -> None:
    """The fingerprint of the images is keyed with each site's secret, and is not in the manifest."""
    manifests, requests = [], []
    for name in "ab":
        release = ReleaseStore(tmp_path / name).get_or_make(REQUEST, _images(), SecureNoise())
        manifests.append(release.manifest)
        requests.append(json.loads((tmp_path / name / "release/request.json").read_text()))
    assert "images" not in manifests[0]
    assert requests[0]["images"] != requests[1]["images"]  # keyed with each site's own secret
    assert requests[0]["images"] not in json.dumps(manifests[0])
    assert manifests[0]["privacy"]["epsilon"] > 0 and manifests[0]["class_counts"] == {"0": 4, "1": 4, "2": 4}


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    ReleaseStore(tmp_path / "store").get_or_make(REQUEST, _images(), SecureNoise())
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name


def test_damage_is_found(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.get_or_make(REQUEST, _images(), SecureNoise())
    path = tmp_path / "release/release.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(PrivacyError, match="damaged"):
        store.get_or_make(REQUEST, _images(), SecureNoise())
    path.unlink()
    with pytest.raises(PrivacyError, match="cannot be read"):
        store.get_or_make(REQUEST, _images(), SecureNoise())


def test_no_images_no_release(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="no images"):
        ReleaseStore(tmp_path).get_or_make(REQUEST, _images(0), SecureNoise())
    assert not (tmp_path / "release").exists()


def _make_in_another_process(folder: Path, kill_at: int = 0) -> int:
    """Fork a process that makes the release, killed (-9) at that call of fsync or rename; return its id."""
    child = os.fork()
    if child:
        return child
    left = kill_at

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return call

    os.fsync, Path.rename = watched(os.fsync), watched(Path.rename)
    try:
        ReleaseStore(folder).get_or_make(REQUEST, _images(), SecureNoise())
    except BaseException:
        os._exit(1)
    os._exit(0)


STEPS = [
    "secret",
    "secret's rename",
    "store folder",
    "release",
    "labels",
    "manifest",
    "request",
    "temporary folder",
    "rename",
    "store folder again",
    "store folder before reading",
]


@pytest.mark.parametrize("step", range(1, len(STEPS) + 2), ids=[*STEPS, "not at all"])
def test_killed_at_any_step_leaves_one_release_or_none(tmp_path: Path, step: int) -> None:
    _, status = os.waitpid(_make_in_another_process(tmp_path, step), 0)
    assert os.waitstatus_to_exitcode(status) == (0 if step > len(STEPS) else -signal.SIGKILL)
    made = step > STEPS.index("rename") + 1
    path = tmp_path / "release/release.npy"
    assert path.exists() == made and (tmp_path / "release").exists() == made
    before = path.read_bytes() if made else None
    release = ReleaseStore(tmp_path).get_or_make(REQUEST, _images(), SecureNoise())
    assert len(release.labels) == 12
    assert before is None or path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock", "release", "secret"]


def test_processes_at_the_same_time_make_one_release(tmp_path: Path) -> None:
    """The winner's bytes stay: every process finds a release, and it is intact."""
    children = [_make_in_another_process(tmp_path / "store") for _ in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    ReleaseStore(tmp_path / "store").get_or_make(REQUEST, _images(), SecureNoise())
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == ["lock", "release", "secret"]
