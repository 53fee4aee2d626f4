"""Images in and out."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from server.pipeline.decoding.file import ImageError
from server.pipeline.images import decode_image, resize_and_crop, to_network, to_pixels
from tests.support.image_files import SIGNATURE, chunk, encoded, jpeg_with, tiff


def bomb(width: int, height: int) -> bytes:
    """A PNG that only claims to be large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return SIGNATURE + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read(kind):
    image = decode_image(encoded(Image.new("RGB", (20, 10), "red"), kind))
    assert image.size == (20, 10)
    assert image.getpixel((5, 5))[0] > 240


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "AVIF"])
def test_other_formats_are_refused(kind):
    with pytest.raises(ImageError, match="accepted: a complete PNG, JPEG, WebP or GIF"):
        decode_image(encoded(Image.new("RGB", (16, 16)), kind))


@pytest.mark.parametrize("size", [(20_000, 20_000), (100_000, 2), (8192, 8192)])
def test_an_image_too_large_is_refused_from_its_header(size):
    with pytest.raises(ImageError, match="accepted"):
        decode_image(bomb(*size))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_cut_short_is_refused(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(ImageError, match=r"damaged or cut short|cannot be read|is not an image"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ImageError, match="accepted"):
        decode_image(data)


def test_transparency_lies_on_white():
    image = decode_image(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0))))
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_a_turned_photograph_is_put_upright_and_loses_its_metadata():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_image(encoded(Image.new("RGB", (30, 10)), "JPEG", exif=exif))
    assert image.size == (10, 30)
    assert image.info == {}


def test_an_image_is_scaled_to_cover_and_cut_in_the_middle():
    wide = Image.new("RGB", (300, 100), "black")
    wide.paste("white", (100, 0, 200, 100))
    assert resize_and_crop(wide, 64, 64).min() > 200


def test_pixels_survive_the_way_through_the_networks_range():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_allclose(to_pixels(to_network(pixels).astype(np.float32)), pixels, atol=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photograph_is_turned_upright_as_pillow_turns_it(turn, order):
    data = jpeg_with(tiff((0x112, 3, 1, turn), order=order))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(np.asarray(decode_image(data)), np.asarray(expected))


def test_odd_entries_of_exif_do_not_matter():
    for kind in range(14):
        for count in (0, 1, 5, 2**31):
            for tag, offset in itertools.product((0x11A, 0x8769, 0x8825, 0x927C, 0x14A), (0, 8, 2**31)):
                data = jpeg_with(tiff((0x112, 3, 1, 6), (tag, kind, count, offset)))
                assert decode_image(data).size == (8, 16), (tag, kind, count, offset)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0rubbish!rubbish!",
        tiff((0x112, 2, 4, 0x36363636)),
        tiff((0x112, 3, 1, 0)),
        tiff((0x112, 3, 1, 9)),
        tiff((0x112, 3, 1, 6))[:19],
        b"Exif\0\0II*\0" + struct.pack("<I", 2**32 - 1),
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 65535),
    ],
)
def test_exif_that_says_nothing_readable_leaves_the_image_as_it_is(exif):
    assert decode_image(jpeg_with(exif)).size == (16, 8)


@pytest.mark.parametrize("packed", [False, True])
def test_a_png_with_a_long_text_is_read_without_it(packed):
    info = PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=packed)
    info.add_itxt("prompt", "y" * 3_000_000, zip=packed)
    info.add_text("Raw profile type exif", "\nexif\n      10\nzz")
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(file, "PNG", pnginfo=info)
    assert np.asarray(decode_image(file.getvalue()))[0, 0].tolist() == [0, 0, 255]


def test_a_png_cut_within_a_chunk_is_still_refused():
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(file, "PNG")
    with pytest.raises(ImageError, match="damaged or cut short"):
        decode_image(file.getvalue()[:-30])
