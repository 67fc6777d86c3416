"""Data folders as sites have them, made for tests, and read as a real client reads them."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.data.client import ClientData, load_client

SIZE = 8
TRACE = "executed"
Change = Callable[[Path], None]


def load(site: Path, **changes: Any) -> ClientData:
    settings = {"classes": "cat,dog", "image-size": SIZE} | {
        k.replace("_", "-"): v for k, v in changes.items()
    }
    node = {"data-path": str(site), "state-dir": "/state", "policy": "/policy.toml", "site-name": "north"}
    return load_client(RunConfig.parse(settings), NodeConfig.parse(node))


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


def adds(name: str, data: bytes | str | Callable[[], bytes]) -> Change:
    """Put one more file into the folder."""
    return lambda site: write(site / name, data() if callable(data) else data)


def links(name: str, target: str) -> Change:
    """Put a link into the folder; its target is beside the folder."""

    def change(site: Path) -> None:
        write(site.parent / "elsewhere" / "cat" / "secret.png", encoded(picture()))
        (site / name).symlink_to(site.parent / "elsewhere" / target)

    return change


def tabled(images: list[Any], labels: list[Any]) -> Change:
    """Replace the folder's images by a parquet file; a path in it is taken beside the folder."""

    def change(site: Path) -> None:
        write(site.parent / "elsewhere" / "cat" / "secret.png", encoded(picture()))
        only()(site)
        rows = [
            {"bytes": None, "path": str(site.parent / image)} if isinstance(image, str) else image
            for image in images
        ]
        table(site / "train.parquet", rows, labels)

    return change


def squeezed_table(site: Path) -> None:
    """Write a small parquet file that unpacks to 400 MB."""
    only()(site)
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


def only(*parts: str) -> Change:
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


def cut_table(site: Path) -> None:
    """Leave a parquet file whose end is missing."""
    tabled([None], ["cat"])(site)
    os.truncate(site / "train.parquet", 99)


def only_file(name: str, data: bytes | str) -> Change:
    """Leave one file and nothing else."""

    def change(site: Path) -> None:
        only()(site)
        write(site / name, data)

    return change
