"""Which image an image is, whatever its file and the settings, and who is shown in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from fedpdiff.config import NodeConfig
from fedpdiff.data.client import load_client
from fedpdiff.data.images import decode_images, to_labelled_images
from fedpdiff.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 200, (12, 10), dtype=np.uint8)


def _dataset(*images: tuple[Image.Image, str, dict[str, Any]]) -> datasets.Dataset:
    encoded = []
    for image, kind, options in images:
        file = io.BytesIO()
        image.save(file, kind, **options)
        encoded.append({"bytes": file.getvalue(), "path": None})
    count = len(encoded)
    rows = {"image": encoded, "label": [0] * count, "source_row": list(range(count))}
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["a"]), source_row=datasets.Value("int64")
    )
    return datasets.Dataset.from_dict(rows, features=features)


def _palette(colours: list[int]) -> Image.Image:
    image = Image.fromarray(PIXELS % 2).convert("P")
    image.putpalette(colours)
    return image


def test_file_name_format_and_compression_do_not_matter(run_config: Any) -> None:
    image = Image.fromarray(PIXELS)
    files: list[tuple[str, dict[str, Any]]] = [
        ("PNG", {}),
        ("PNG", {"compress_level": 0}),
        ("BMP", {}),
        ("TIFF", {}),
    ]
    digests = decode_images(_dataset(*((image, *file) for file in files)), run_config())[1]
    assert len(set(digests)) == 1 and len(digests) == 4 and len(digests[0]) == 32


def test_settings_do_not_matter(run_config: Any) -> None:
    dataset = _dataset((Image.fromarray(PIXELS), "PNG", {}))
    settings = ({}, {"image_size": 16}, {"channels": 3}, {"fit": "pad"})
    digests = {decode_images(dataset, run_config(**changes))[1][0] for changes in settings}
    assert len(digests) == 1


def test_other_pixels_are_another_image(run_config: Any) -> None:
    """One grey value, the shape, the mode, the colours of a palette: each makes another original."""
    other = PIXELS.copy()
    other[3, 4] ^= 1
    images = [
        (Image.fromarray(PIXELS), "PNG", {}),
        (Image.fromarray(other), "PNG", {}),
        (Image.fromarray(PIXELS.reshape(10, 12)), "PNG", {}),
        (Image.fromarray(PIXELS).convert("RGB"), "PNG", {}),
        (_palette([0, 0, 0, 250, 0, 0]), "PNG", {}),
        (_palette([0, 0, 0, 0, 250, 0]), "PNG", {}),
        (_palette([0, 0, 0, 0, 250, 0]), "PNG", {"transparency": 1}),
    ]
    assert len(set(decode_images(_dataset(*images), run_config())[1])) == len(images)


def test_an_image_that_looks_alike_after_preparation_is_still_another(run_config: Any) -> None:
    rgb = np.stack([PIXELS] * 3, axis=-1)
    images, digests = decode_images(
        _dataset((Image.fromarray(PIXELS), "PNG", {}), (Image.fromarray(rgb), "PNG", {})), run_config()
    )
    assert (images.images[0] == images.images[1]).all() and digests[0] != digests[1]


def test_the_images_are_the_same_with_and_without_digests(run_config: Any) -> None:
    dataset = _dataset((Image.fromarray(PIXELS), "PNG", {}), (_palette([9, 9, 9, 0, 250, 0]), "PNG", {}))
    images, digests = decode_images(dataset, run_config())
    assert (to_labelled_images(dataset, run_config()).images == images.images).all() and len(digests) == 2


def _simulated(k: int) -> NodeConfig:
    return NodeConfig.parse({"partition-id": k, "num-partitions": 2})


def test_simulated_clients_hold_different_images_in_any_order_of_settings(run_config: Any) -> None:
    clients = [load_client(run_config(), _simulated(k)) for k in range(2)]
    digests = [client.digests for client in clients]
    assert [len(d) for d in digests] == [len(client.train) for client in clients]
    assert len(set(digests[0] + digests[1])) == len(digests[0] + digests[1])  # no two digits are equal
    assert clients[0].persons is None
    assert load_client(run_config(image_size=16), _simulated(0)).digests == digests[0]


def _site(folder: str) -> NodeConfig:
    node = {"data-path": folder, "state-dir": "/tmp/state", "policy": "/tmp/policy.toml", "site-name": "a"}
    return NodeConfig.parse(node)


@pytest.fixture
def with_patients(image_folder: Callable[..., str]) -> Callable[..., str]:
    """Return ``with_patients(["ann", ...])``: a folder of 10 images and who is shown in each."""

    def make(patients: list[str]) -> str:
        folder = Path(image_folder("site", cat=len(patients)))
        with (folder / "metadata.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file_name", "label", "patient"])
            rows.writerows([f"cat/{n:03}.png", "cat", patient] for n, patient in enumerate(patients))
        return str(folder)

    return make


def test_persons_come_in_the_order_of_the_images(run_config: Any, with_patients: Callable[..., str]) -> None:
    names = ["ann", "bob", " ann", "cat", "dan", "dan", "eve", "ann", "fay", "gus"]
    folder = with_patients(names)
    client = load_client(run_config(classes="cat"), _site(folder), "patient")
    person_of = {Path(folder, f"cat/{n:03}.png"): name.strip() for n, name in enumerate(names)}
    values = {int(np.asarray(Image.open(path))[0, 0]): name for path, name in person_of.items()}
    assert client.persons is not None and len(client.persons) == len(client.train) == 7
    assert [values[int(image[0, 0, 0])] for image in client.train.images] == list(client.persons)
    assert load_client(run_config(classes="cat"), _site(folder)).persons is None


def test_everybody_must_be_named(run_config: Any, with_patients: Callable[..., str]) -> None:
    folder = with_patients(["ann", "bob", "", "cat", "dan", "dan", "eve", "ann", "fay", "gus"])
    with pytest.raises(
        DataError, match=r'data-path = .*row \d+ .* names nobody in person-column = "patient"'
    ):
        load_client(run_config(classes="cat", test_fraction=0.1), _site(folder), "patient")
    with pytest.raises(
        DataError, match=r'person-column = "person" is not a column of the data; it has: .*patient'
    ):
        load_client(run_config(classes="cat"), _site(folder), "person")
