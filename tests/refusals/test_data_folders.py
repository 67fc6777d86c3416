"""Data folders as sites have them: each is handled, down to the pixels, or refused in words that name the cause.

Read as a real client reads them. (Modes, transparency, padding and columns in full: tests/data.)
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.data.client import ClientData, load_client
from fedpdiff.errors import DataError
from fedpdiff.types import LabelledImages

SIZE = 8
TRACE = "executed"


@pytest.fixture
def quick() -> None:
    """Nothing: here images are really read."""


# -- making files --------------------------------------------------------------------------------------------


def picture(value: int = 0) -> Image.Image:
    """Return a grey image that is brighter in its upper left corner."""
    image = Image.new("L", (SIZE, SIZE), value)
    image.putpixel((0, 0), 255)
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of_zeros(side: int) -> bytes:
    """Return a PNG of a black square in one bit per pixel, made without ever holding it."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    body = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def table(path: Path, images: list[dict[str, Any] | None], labels: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": labels}), path)


def adds(name: str, data: bytes | str | Callable[[], bytes]) -> Callable[[Path], None]:
    """Put one more file into the folder."""
    return lambda site: write(site / name, data() if callable(data) else data)


def links(name: str, target: str) -> Callable[[Path], None]:
    """Put a link into the folder; its target is beside the folder."""

    def change(site: Path) -> None:
        write(site.parent / "elsewhere" / "cat" / "secret.png", encoded(picture()))
        (site / name).symlink_to(site.parent / "elsewhere" / target)

    return change


def tabled(images: list[Any], labels: list[Any]) -> Callable[[Path], None]:
    """Replace the folder's images by a parquet file; a path in it is taken beside the folder."""

    def change(site: Path) -> None:
        write(site.parent / "elsewhere" / "cat" / "secret.png", encoded(picture()))
        shutil.rmtree(site / "cat")
        rows = [
            {"bytes": None, "path": str(site.parent / image)} if isinstance(image, str) else image
            for image in images
        ]
        table(site / "train.parquet", rows, labels)

    return change


def squeezed_table(site: Path) -> None:
    """Write a small parquet file that unpacks to 400 MB."""
    shutil.rmtree(site / "cat")
    images = pa.array([{"bytes": bytes(2**20)}] * 400, pa.struct([("bytes", pa.binary())]))
    rows = pa.table({"image": images, "label": ["cat"] * 400})
    pq.write_table(rows, site / "train.parquet", compression="zstd", use_dictionary=False)


def archive(site: Path) -> None:
    """Write an archive whose member would be unpacked beside the folder."""
    with zipfile.ZipFile(site / "cat" / "more.bin", "w") as file:
        file.writestr("../../escaped.png", encoded(picture()))


def pipe(site: Path) -> None:
    """Make a pipe, on which a reader would wait for ever."""
    os.mkfifo(site / "cat" / "pipe.png")


def only(*parts: str) -> Callable[[Path], None]:
    """Leave nothing but these empty folders."""

    def change(site: Path) -> None:
        shutil.rmtree(site)
        for part in ("", *parts):
            (site / part).mkdir(parents=True, exist_ok=True)

    return change


def flat(site: Path) -> None:
    """Put the images into the folder itself."""
    for path in (site / "cat").iterdir():
        path.rename(site / path.name)
    (site / "cat").rmdir()


# -- what is refused -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """A change to a folder with the classes cat (3 images) and dog (1), and the words of the error."""

    name: str
    change: Callable[[Path], None]
    words: str


BROKEN = encoded(Image.effect_noise((64, 64), 90), "JPEG")

REFUSED = [
    Refused("a text called an image", adds("cat/z.png", "a private text"), "row 3 (from 0) is no image, or"),
    Refused("an empty file", adds("cat/z.png", b""), "the image in row 3 (from 0) is no image, or none of"),
    Refused("a JPEG cut short", adds("cat/z.jpg", BROKEN[: len(BROKEN) // 2]), "row 3 (from 0) cannot be"),
    Refused("a PNG with a wrong checksum", adds("cat/z.png", BROKEN[:4] + b"x"), "is no image, or none of"),
    Refused("PostScript", adds("cat/z.eps", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"), "is no image"),
    Refused("PostScript called a PNG", adds("cat/z.png", "%!PS-Adobe-3.0\n%%BoundingBox: 0 0 8 8\n"), "is no"),
    Refused("an image bomb", adds("cat/z.png", lambda: png_of_zeros(2**15)), "more than 67,108,864 pixels"),
    Refused("a large image bomb", adds("cat/z.png", lambda: png_of_zeros(2**13 + 8)), "more than 67,108,864"),
    Refused("floating point", adds("cat/z.tiff", encoded(Image.new("F", (8, 8)), "TIFF")), "has the mode F"),
    Refused("32-bit numbers", adds("cat/z.tiff", encoded(Image.new("I", (8, 8), 70_000), "TIFF")), "beyond 16"),
    Refused("a class that the run has not", adds("emu/1.png", encoded(picture())), "does not: emu; the run's"),
    Refused("a link to a file elsewhere", links("cat/z.png", "cat/secret.png"), "has 1 links that lead out"),
    Refused("a link to a folder elsewhere", links("emu", "cat"), "has 1 links that lead out of it or to a"),
    Refused("a link to nothing", links("cat/z.png", "nothing.png"), "has 1 links that lead out of it"),
    Refused("a link to everything", links("root", "/"), "has 1 links that lead out of it or to a folder"),
    Refused("an archive", archive, "holds archives (.bin); unpack them or take them out"),
    Refused("a pipe", pipe, "holds 1 entries that are neither files nor folders"),
    Refused("metadata that names files elsewhere", adds("metadata.csv", "file_name,label\ncat/0.png,cat\n../elsewhere/cat/secret.png,cat\n"), "names 1 images by paths that are no files inside it"),
    Refused("metadata that names no file", adds("metadata.csv", "file_name,label\ncat/0.png,cat\ncat/9.png,cat\n"), "names 1 images by paths that are no files"),
    Refused("a table that names files elsewhere", tabled(["elsewhere/cat/secret.png"], ["cat"]), "names 1 images by"),
    Refused("a table that names an address", tabled([{"bytes": None, "path": "http://127.0.0.1:9/1.png"}], ["cat"]), "names 1 images by"),
    Refused("a table of bytes that are no image", tabled([{"bytes": b"private", "path": None}], ["cat"]), "row 0 (from 0) is no image"),
    Refused("a table without an image", tabled([None], ["cat"]), "the image in row 0 (from 0) is missing"),
    Refused("a table without a label", tabled([{"bytes": b"", "path": None}], [None]), "rows have no label"),
    Refused("labels between classes", tabled([{"bytes": b"", "path": None}], [0.5]), 'the label column "label" holds'),
    Refused("a table bomb", squeezed_table, "at most 100 times its size is read"),
    Refused("a cut table", lambda site: (tabled([None], ["cat"])(site), os.truncate(site / "train.parquet", 99))[0], "cannot be read"),
    Refused("an empty table", lambda site: (only()(site), write(site / "train.parquet", b""))[0], "cannot be read"),
    Refused("brackets called JSON", lambda site: (only()(site), write(site / "train.json", "[" * 10**5))[0], "cannot be read"),
    Refused("a loading script alone", lambda site: (only()(site), write(site / "site.py", f"open('{TRACE}', 'w')"))[0], "cannot be read"),
    Refused("nothing", only(), "cannot be read (EmptyDatasetError); it must be a parquet file or folder, or"),
    Refused("classes without images", only("cat", "dog"), "cannot be read (EmptyDatasetError)"),
    Refused("images without classes", flat, "label-column is not set and no column looks right"),
]  # fmt: skip


def load(site: Path, **changes: Any) -> ClientData:
    settings = {"classes": "cat,dog", "image-size": SIZE} | {
        k.replace("_", "-"): v for k, v in changes.items()
    }
    node = {"data-path": str(site), "state-dir": "/state", "policy": "/policy.toml", "site-name": "north"}
    return load_client(RunConfig.parse(settings), NodeConfig.parse(node))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write(tmp_path / "site" / "cat" / f"{number}.png", encoded(picture(10 * number)))
    write(tmp_path / "site" / "dog" / "0.png", encoded(picture(50)))
    return tmp_path / "site"


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_folder_is_refused_with_its_cause(case: Refused, site: Path) -> None:
    case.change(site)
    with pytest.raises(DataError) as error:
        load(site)
    told = str(error.value)
    assert case.words in told
    assert "private" not in told and "secret" not in told  # neither what files hold nor how they are called
    assert len(told.splitlines()) == 1
    assert not Path(TRACE).exists()
    assert not list(site.parent.rglob("escaped*"))


# -- what is handled -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "name",
    ["with blank.png", "médecin 医院.png", "cafe\u0301.png", "[0-9]*?.png", "a'b\"c.PNG", "two\nlines.png", "a,b;c&d.png"],
)  # fmt: skip
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
    assert isinstance(load(site / "rows.json", image_column="image").train, LabelledImages)


# -- paths that are none -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nowhere", "/" + "x" * 5000, "/a" * 3000])
def test_a_path_that_cannot_be_one_is_refused_in_words(path: str) -> None:
    with pytest.raises(DataError, match=r"does not exist; give the absolute path"):
        load(Path(path))


@pytest.mark.parametrize("data", ["~a-user-that-is-not-there/x", "/" + "x" * 5000, "../../x", "C:\\images"])
def test_a_runs_path_that_cannot_be_one_is_refused_in_words(data: str) -> None:
    node = NodeConfig.parse({"partition-id": 0, "num-partitions": 2})
    with pytest.raises(DataError, match=r"^data = .*looks like a path, but nothing is there"):
        load_client(RunConfig.parse({"data": data}), node)
