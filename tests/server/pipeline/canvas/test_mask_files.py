"""Mask files of every kind, as masks at the size that their image is fitted to."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from server.pipeline.canvas.attachments import mask_from_alpha
from server.pipeline.decoding.file import ImageError
from server.pipeline.images import fit_mask, read_image
from tests.support.image_files import encoded


def mask_of(image: Image.Image, size=None, of=None, kind="PNG", transparent=False, **options):
    size = size or image.size
    return fit_mask(read_image(encoded(image, kind, **options)), of or image.size, *size, transparent=transparent)


def left_half(mode: str, white, black, size=(64, 48)) -> Image.Image:
    image = Image.new(mode, size, black)
    image.paste(white, (0, 0, size[0] // 2, size[1]))
    return image


LEFT = np.where(np.arange(64) < 32, 255, 0)[None].repeat(48, 0)


@pytest.mark.parametrize(
    "image",
    [
        left_half("1", 1, 0),
        left_half("L", 255, 0),
        left_half("RGB", (255, 255, 255), (0, 0, 0)),
        left_half("RGBA", (255, 255, 255, 255), (0, 0, 0, 255)),
        left_half("LA", (255, 255), (255, 0)),
        left_half("RGBA", (255, 255, 255, 255), (255, 255, 255, 0)),
        left_half("RGB", (255, 255, 255), (0, 0, 0)).convert("P"),
        left_half("I;16", 65535, 0),
    ],
    ids=["1 bit", "gray", "colors", "opaque", "gray strokes on nothing", "strokes on nothing", "palette", "16 bits"],
)
def test_white_repaints_and_black_and_what_is_transparent_do_not(image):
    np.testing.assert_array_equal(mask_of(image), LEFT)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"lossless": True})])
def test_masks_may_be_of_every_accepted_format(kind, options):
    np.testing.assert_allclose(mask_of(left_half("RGB", "white", "black"), kind=kind, **options), LEFT, atol=3)


def test_a_color_repaints_by_its_luminance():
    assert mask_of(Image.new("RGB", (8, 8), (0, 255, 0)))[0, 0] == 150


@pytest.mark.parametrize(
    ("mode", "clear", "opaque"), [("RGBA", (9, 9, 9, 0), (9, 200, 9, 255)), ("LA", (200, 0), (30, 255))]
)
def test_where_transparency_is_what_counts_transparent_pixels_repaint(mode, clear, opaque):
    np.testing.assert_array_equal(mask_of(left_half(mode, clear, opaque), transparent=True), LEFT)
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    assert abs(int(mask_of(half, transparent=True)[0, 0]) - 127) <= 1


@pytest.mark.parametrize(
    ("mode", "clear", "opaque"), [("1", 1, 0), ("L", 200, 30), ("I;16", 0x4040, 9), ("RGB", (9, 9, 9), (9, 200, 9))]
)
def test_a_color_that_a_png_names_as_transparent_repaints_too(mode, clear, opaque):
    mask = mask_of(left_half(mode, clear, opaque), transparent=True, kind="PNG", transparency=clear)
    np.testing.assert_array_equal(mask, LEFT)


def test_a_mask_by_transparency_becomes_one_by_luminance():
    mask = mask_from_alpha(encoded(left_half("RGBA", (9, 9, 9, 0), (9, 200, 9, 255))))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mask))), LEFT)
    with pytest.raises(ImageError, match="no transparent part"):
        mask_from_alpha(encoded(left_half("RGB", "white", "black")))


def test_a_mask_of_another_size_is_stretched_over_its_image():
    small = mask_of(left_half("L", 255, 0, (16, 48)), (64, 48), of=(64, 48))
    np.testing.assert_allclose(small[:, :29], 255)
    np.testing.assert_allclose(small[:, 35:], 0)


def test_a_mask_is_fitted_as_its_image_is():
    mask = left_half("L", 255, 0, (200, 100))
    expected = np.asarray(ImageOps.fit(mask, (64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(mask_of(mask, (64, 64)).astype(int), expected, atol=2)
    stretched = mask.resize((100, 100))
    np.testing.assert_allclose(mask_of(stretched, (64, 64), of=(200, 100)).astype(int), expected, atol=16)


def test_scaling_a_mask_makes_no_ripples_beside_its_edges():
    values = mask_of(left_half("L", 255, 0, (640, 480)), (100, 75))
    assert (values[:, :48] == 255).all()
    assert (values[:, 52:] == 0).all()


def test_a_mask_is_turned_upright_as_its_exif_says():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = 6
    left_half("L", 255, 0).save(file, "PNG", exif=exif)
    upright = fit_mask(read_image(file.getvalue()), (48, 64), 48, 64)
    np.testing.assert_array_equal(upright, np.rot90(LEFT, -1))
