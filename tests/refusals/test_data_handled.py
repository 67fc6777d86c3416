"""Data folders that are odd but fine: each is read, and the pixels are what the files show.

(Modes, transparency, padding and columns one by one: tests/data.)
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedpdiff.data.client import ClientData
from fedpdiff.errors import DataError
from tests.refusals.folders import SIZE, TRACE, encoded, load, picture, write


def pixels(data: ClientData) -> np.ndarray:
    """Return all images of a client, training ones first, uint8 (N, C, H, W)."""
    return np.concatenate([data.train.images.numpy(), data.test.images.numpy()])


def alone(site: Path, name: str, data: bytes, **changes: Any) -> np.ndarray:
    """Return the pixels of the one image in a folder."""
    shutil.rmtree(site)
    write(site / "cat" / name, data)
    return pixels(load(site, **changes))[0]


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    return encoded(picture(), "JPEG", exif=exif, quality=100, subsampling=0)


def palette() -> bytes:
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return encoded(image)


def sixteen_bits() -> bytes:
    return encoded(Image.fromarray(np.full((SIZE, SIZE), 0x8080, np.uint16)))


def animation() -> bytes:
    frames = [Image.new("L", (SIZE, SIZE), value) for value in (40, 90)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def solid(mode: str, colour: Any, kind: str = "PNG", **options: Any) -> bytes:
    return encoded(Image.new(mode, (SIZE, SIZE), colour), kind, **options)


# What the file is, its bytes, and the RGB colour that every pixel must have.
HANDLED = [
    ("16-bit grey", sixteen_bits(), (128, 128, 128)),
    ("a palette", palette(), (200, 100, 50)),
    ("black and white", solid("1", 1), (255, 255, 255)),
    ("transparency on black", solid("RGBA", (200, 100, 50, 51)), (40, 20, 10)),
    ("grey with transparency", solid("LA", (200, 0)), (0, 0, 0)),
    ("CMYK", solid("CMYK", (0, 0, 0, 0), "JPEG", quality=100), (255, 255, 255)),
    ("a bitmap", solid("RGB", (1, 2, 3), "BMP"), (1, 2, 3)),
    ("WebP", solid("RGB", (9, 9, 9), "WEBP", lossless=True), (9, 9, 9)),
    ("the first of several frames", animation(), (40, 40, 40)),
]


@pytest.mark.parametrize(
    ("data", "colour"), [case[1:] for case in HANDLED], ids=[case[0] for case in HANDLED]
)
def test_the_pixels_are_right(data: bytes, colour: tuple[int, int, int], site: Path) -> None:
    image = alone(site, "1.png", data, channels=3)
    assert image.shape == (3, SIZE, SIZE)
    assert [set(channel.ravel().tolist()) for channel in image] == [{value} for value in colour]


def test_the_cameras_orientation_is_applied(site: Path) -> None:
    image = alone(site, "1.jpg", turned())[0]
    assert image[0, -1] > 200 and image[0, 0] < 60


NAMES = ("with blank", "médecin 医院", "cafe\u0301", "[0-9]*?", "a'b\"c", "two\nlines", "a,b;c&d")


@pytest.mark.parametrize("name", [*(f"{name}.png" for name in NAMES), "CAPITALS.PNG"])
def test_any_name_of_a_file_will_do(name: str, site: Path) -> None:
    assert alone(site, name, encoded(picture(7)))[0, 4, 4] == 7


@pytest.mark.parametrize("name", ["north clinic", "Krankenhaus Süd", "医院", "[a] {b} *", "a'b", "%20"])
def test_any_name_of_a_folder_will_do(name: str, site: Path) -> None:
    moved = site.rename(site.parent / name)
    assert len(pixels(load(moved))) == 4


@pytest.mark.parametrize(("folder", "named"), [("cafe\u0301", "caf\u00e9"), ("caf\u00e9", "cafe\u0301")])
def test_an_accent_may_be_one_character_or_two(folder: str, named: str, site: Path) -> None:
    (site / "cat").rename(site / folder)
    data = load(site, classes=f"dog,{named}")
    assert data.train.counts(2)[1] + data.test.counts(2)[1] == 3


def test_files_that_are_no_images_are_no_images(site: Path) -> None:
    for name in ("cat/notes.txt", "Thumbs.db", "cat/.hidden.png", "cat/.DS_Store", ".git/config", "site.py"):
        write(site / name, f"open('{TRACE}', 'w')")
    assert len(pixels(load(site))) == 4
    assert not Path(TRACE).exists()


def test_a_link_inside_the_folder_is_an_image(site: Path) -> None:
    (site / "cat" / "again.png").symlink_to(site / "cat" / "0.png")
    assert len(pixels(load(site))) == 5


def test_the_folder_itself_may_be_a_link(site: Path) -> None:
    (site.parent / "link").symlink_to(site)
    assert len(pixels(load(site.parent / "link"))) == 4


def test_an_empty_class_is_one_that_the_site_lacks(site: Path) -> None:
    shutil.rmtree(site / "dog")
    (site / "dog").mkdir()
    data = load(site)
    assert data.class_names == ("cat", "dog")
    assert (data.train.counts(2)[1], data.test.counts(2)[1]) == (0, 0)
    assert data.minority == ()


def test_a_site_of_one_image_has_it_to_train_on(site: Path) -> None:
    alone(site, "1.png", encoded(picture()))
    data = load(site)
    assert (len(data.train), len(data.test), data.majority, data.minority) == (1, 0, (0,), ())
    with pytest.raises(DataError, match=r"of this site's 1 images, test-fraction = 0\.8 holds out all"):
        load(site, test_fraction=0.8, public_fraction=0.1)


def test_a_small_table_may_name_images_beside_it(site: Path) -> None:
    rows = [{"image": {"bytes": None, "path": str(site / "cat" / "0.png")}, "label": "cat"}]
    write(site / "rows.json", json.dumps(rows))
    assert pixels(load(site / "rows.json", image_column="image"))[0, 0, 0, 0] == 255
