"""Pictures in and out."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from server.pipeline.images import ImageError, decode_image, encode_png, fitted, to_network, to_pixels


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that only claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read(kind):
    found = decode_image(encoded(Image.new("RGB", (20, 10), "red"), kind))
    assert found.size == (20, 10)
    assert found.getpixel((5, 5))[0] > 240


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO"])
def test_other_formats_are_refused(kind):
    with pytest.raises(ImageError, match="accepted: a whole PNG, JPEG or WebP"):
        decode_image(encoded(Image.new("RGB", (16, 16)), kind))


@pytest.mark.parametrize("size", [(20_000, 20_000), (100_000, 2), (8192, 8192)])
def test_a_picture_too_large_is_refused_from_its_header(size):
    with pytest.raises(ImageError, match="accepted"):
        decode_image(bomb(*size))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_cut_short_is_refused(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(ImageError, match=r"damaged or cut short|cannot be read|no picture"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(ImageError, match="accepted"):
        decode_image(data)


def test_transparency_lies_on_white():
    found = decode_image(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0))))
    assert found.getpixel((0, 0)) == (255, 255, 255)


def test_a_turned_photograph_is_put_upright_and_loses_its_metadata():
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decode_image(encoded(Image.new("RGB", (30, 10)), "JPEG", exif=exif))
    assert found.size == (10, 30)
    assert found.info == {}


def test_a_picture_is_scaled_to_cover_and_cut_in_the_middle():
    wide = Image.new("RGB", (300, 100), "black")
    wide.paste("white", (100, 0, 200, 100))
    assert fitted(wide, 64, 64).min() > 200


def test_pixels_survive_the_way_through_the_networks_range():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_allclose(to_pixels(to_network(pixels).astype(np.float32)), pixels, atol=1)


@pytest.mark.parametrize("text", ["plain", "ünï", "日本語 🎈\nSteps: 3"])
def test_a_png_carries_its_parameters(text):
    pixels = np.zeros((4, 4, 3), np.uint8)
    read = Image.open(io.BytesIO(encode_png(pixels, text)))
    assert read.text["parameters"] == text
    np.testing.assert_array_equal(np.asarray(read), pixels)
