"""From encoded images of any size and mode to uint8 tensors of the run's shape."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from fedpdiff.config import RunConfig
from fedpdiff.errors import DataError
from fedpdiff.types import LabelledImages

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
PLAIN = ("1", "L", "RGB", "CMYK", "YCbCr")
BATCH = 256  # encoded images held at a time
# Others are refused: some Pillow opens by running another program (EPS).
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
MOST_PIXELS = 2**26  # 8192 x 8192: a small file may claim to unpack to any size


def to_labelled_images(dataset: datasets.Dataset, config: RunConfig, where: str = "") -> LabelledImages:
    """Return the images of :func:`decode_images` alone."""
    return decode_images(dataset, config, where)[0]


def decode_images(
    dataset: datasets.Dataset, config: RunConfig, where: str = ""
) -> tuple[LabelledImages, list[bytes]]:
    """Decode images, bring them to the run's channels and size, and tell which original each one is.

    The EXIF orientation is applied; 16-bit grey is scaled to 8 bits (x / 257); palettes become RGB;
    transparency is laid over black; of several frames the first is taken. ``channels = 1`` takes the luma
    (ITU-R 601) of colour images, ``channels = 3`` repeats grey. ``fit = "resize"`` scales to the square,
    whatever the aspect; ``fit = "pad"`` scales the longer side and centres the image on black. Scaling is
    Pillow's bicubic filter, antialiased.

    Parameters
    ----------
    dataset
        With the columns ``image``, ``label`` and ``source_row`` (and ``colour`` when the run colours images).
    config
        Its ``image_size``, ``channels``, ``fit`` and ``data_transform`` apply.
    where
        The source, for messages; by default the run's ``data``.

    Returns
    -------
    images
        uint8, shape (N, channels, image_size, image_size).
    digests
        N times 32 bytes: SHA-256 of the original as decoded, before anything is done to it, so that it is the
        same whatever the settings and the file's name and compression.

    Raises
    ------
    DataError
        When an image cannot be decoded, is of another format than :data:`FORMATS`, or has more than
        :data:`MOST_PIXELS`; it is named by its row, never by what it shows.
    """
    where = where or f'data = "{config.data}"'
    size = config.image_size
    colorize = config.data_transform == "colorize"
    images = np.zeros((len(dataset), config.channels, size, size), dtype=np.uint8)
    digests: list[bytes] = []
    encoded = dataset.cast_column("image", datasets.Image(decode=False))
    for batch in encoded.iter(batch_size=BATCH):
        for index, row in enumerate(batch["source_row"]):
            try:
                pixels, digest = _decode(
                    batch["image"][index], 1 if colorize else config.channels, size, config.fit
                )
            except DataError as error:
                raise DataError(f"{where}: the image in row {row} (from 0) {error}") from None
            # A coloured image is its grey values in the channel of its colour, on black.
            channels = batch["colour"][index] if colorize else slice(None)
            images[len(digests), channels] = pixels[0] if colorize else pixels
            digests.append(digest)
    labels = torch.tensor(dataset["label"][:], dtype=torch.int64)
    return LabelledImages(torch.from_numpy(images), labels), digests


def _decode(encoded: dict[str, Any] | None, channels: int, size: int, fit: str) -> tuple[np.ndarray, bytes]:
    """Return one image as uint8 (channels, size, size), and the digest of its original."""
    if encoded is None:
        raise DataError("is missing; take the row out")
    try:
        source = encoded["path"] if encoded["bytes"] is None else io.BytesIO(encoded["bytes"])
        with Image.open(source, formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            digest = _digest(opened)
            image = _scaled(to_mode(ImageOps.exif_transpose(opened), channels), size, fit)
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(f"has more than {MOST_PIXELS:,} pixels; scale it down or cut it into tiles") from None
    except UnidentifiedImageError:
        raise DataError(f"is no image, or none of {', '.join(FORMATS)}; repair it or take it out") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise DataError(f"cannot be decoded ({type(error).__name__}); repair it or take it out") from None
    pixels = np.asarray(image, dtype=np.uint8)
    return (pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)), digest


def _digest(image: Image.Image) -> bytes:
    """Return the SHA-256 of an image as decoded: mode, size and pixels; of a palette, its colours as well."""
    pixels = image.tobytes()  # decodes; the palette is known only after it
    palette = image.palette.tobytes() if image.palette else b""
    meaning = (image.mode, image.size, image.info.get("transparency"), hashlib.sha256(palette).digest())
    return hashlib.sha256(repr(meaning).encode() + pixels).digest()


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Convert an image of any supported Pillow mode to 8-bit grey (1 channel) or RGB (3 channels).

    Raises
    ------
    DataError
        When the mode has no agreed 8-bit meaning, such as floating point.
    """
    if image.mode in SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise DataError(
                f"has whole numbers beyond 16 bits (mode {image.mode}); save it with 8 or 16 bits"
            )
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    elif image.mode in WITH_ALPHA or "transparency" in image.info:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, (0, 0, 0, 255)), opaque).convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    elif image.mode not in PLAIN:
        raise DataError(
            f"has the mode {image.mode}; save it as 8- or 16-bit grey, RGB, RGBA, CMYK or with a palette"
        )
    return image.convert("L" if channels == 1 else "RGB")


def _scaled(image: Image.Image, size: int, fit: str) -> Image.Image:
    if image.size == (size, size):
        return image
    if fit == "resize":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    # Not ImageOps.pad: it makes a very long image vanish, its shorter side rounded to nothing.
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    square = Image.new(image.mode, (size, size))
    square.paste(
        image.resize((width, height), Image.Resampling.BICUBIC), ((size - width) // 2, (size - height) // 2)
    )
    return square
