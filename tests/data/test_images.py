"""From files to tensors: modes, orientation, size, and messages that keep the picture to themselves."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedpdiff.data.images import to_labelled_images, to_mode
from fedpdiff.data.source import load_source
from fedpdiff.errors import DataError


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _dataset(*encoded: bytes) -> datasets.Dataset:
    rows = {
        "image": [{"bytes": data, "path": None} for data in encoded],
        "label": [0] * len(encoded),
        "source_row": list(range(100, 100 + len(encoded))),
    }
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["a"]), source_row=datasets.Value("int64")
    )
    return datasets.Dataset.from_dict(rows, features=features)


def test_digits_keep_their_exact_values(run_config):
    from sklearn.datasets import load_digits

    images = to_labelled_images(load_source(run_config()).train, run_config())
    expected = np.round(load_digits().images * 255 / 16)
    np.testing.assert_array_equal(images.images.numpy()[:, 0], expected)
    np.testing.assert_array_equal(images.labels.numpy(), load_digits().target)


def test_sixteen_bits_are_scaled_and_not_clipped(run_config):
    values = np.array([[0, 257, 32768, 65535]] * 4, dtype=np.uint16)
    images = to_labelled_images(_dataset(_encoded(Image.fromarray(values))), run_config(image_size=4))
    assert images.images[0, 0, 0].tolist() == [0, 1, 128, 255]


def test_palette_colours_survive(run_config):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    images = to_labelled_images(_dataset(_encoded(image)), run_config(channels=3))
    assert images.images[0, :, 0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize(("alpha", "value"), [(0, 0), (255, 200), (51, 40)])
def test_transparency_lies_on_black(run_config, alpha, value):
    image = Image.new("RGBA", (8, 8), (200, 200, 200, alpha))
    for channels in (1, 3):
        images = to_labelled_images(_dataset(_encoded(image)), run_config(channels=channels))
        assert images.images.unique().tolist() == [value]


def test_grey_and_colour_by_the_channel_rule(run_config):
    data = _dataset(_encoded(Image.new("RGB", (8, 8), (255, 0, 0))), _encoded(Image.new("L", (8, 8), 9)))
    grey = to_labelled_images(data, run_config(channels=1)).images
    colour = to_labelled_images(data, run_config(channels=3)).images
    assert grey[:, 0, 0, 0].tolist() == [76, 9]  # 0.299 * 255
    assert colour[:, :, 0, 0].tolist() == [[255, 0, 0], [9, 9, 9]]


def test_the_cameras_orientation_is_applied(run_config):
    image = Image.new("L", (8, 8))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to view
    upright = to_labelled_images(_dataset(_encoded(image, exif=exif)), run_config()).images[0, 0]
    assert upright[0, 7] == 255
    assert upright.sum() == 255


@given(width=st.integers(1, 40), height=st.integers(1, 40), size=st.integers(4, 24))
@settings(max_examples=25, deadline=None)
def test_padding_keeps_the_aspect_and_centres(width, height, size):
    from fedpdiff.data.images import _scaled

    image = np.asarray(_scaled(Image.new("L", (width, height), 255), size, "pad"))
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    longer = max(width, height)
    assert image.shape == (size, size)
    for found, side in ((rows, height), (columns, width)):
        assert abs(len(found) - max(1, side * size / longer)) <= 1
        assert abs(found[0] - (size - 1 - found[-1])) <= 1


def test_resizing_fills_the_square_and_averages(run_config):
    stripes = np.zeros((64, 32), dtype=np.uint8)
    stripes[::2] = 200  # finer than the target's pixels: an antialiased filter gives their mean
    images = to_labelled_images(_dataset(_encoded(Image.fromarray(stripes))), run_config())
    assert images.images.shape == (1, 1, 8, 8)
    assert (images.images.float() - 100).abs().max() <= 5


def test_coloured_digits_light_only_their_channel(run_config):
    config = run_config(data_transform="colorize", channels=3)
    source = load_source(config).train.select(range(40))
    images = to_labelled_images(source, config).images
    plain = to_labelled_images(load_source(run_config()).train.select(range(40)), run_config()).images[:, 0]
    for image, grey, colour in zip(images, plain, source["colour"][:], strict=True):
        torch.testing.assert_close(image[colour], grey)
        assert image[[c for c in range(3) if c != colour]].sum() == 0


def test_a_broken_image_is_named_by_row_and_source(run_config):
    good = _encoded(Image.new("L", (8, 8)))
    for broken in (b"secret content", good[:40]):
        with pytest.raises(DataError, match=r"^data = .digits.: the image in row 101 \(from 0\)") as caught:
            to_labelled_images(_dataset(good, broken), run_config())
        assert "secret" not in str(caught.value)
        assert caught.value.__suppress_context__
    with pytest.raises(DataError, match=r"^data-path = .*row 100"):
        to_labelled_images(_dataset(broken), run_config(), 'data-path = "/site"')


def test_modes_without_an_eight_bit_meaning_are_refused():
    with pytest.raises(DataError, match="mode F"):
        to_mode(Image.new("F", (2, 2)), 1)
    with pytest.raises(DataError, match="beyond 16 bits"):
        to_mode(Image.new("I", (2, 2), 70000), 1)


def test_no_images_are_no_error(run_config):
    images = to_labelled_images(load_source(run_config()).train.select([]), run_config())
    assert images.images.shape == (0, 1, 8, 8)
