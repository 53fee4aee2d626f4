"""The first frame of GIFs, written by Pillow and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from server.pipeline.decoding.file import ImageError
from server.pipeline.images import decode_image, read_image
from tests.support.image_files import encoded

COLORS = np.random.default_rng(2).integers(0, 256, (16, 3), np.uint8)
PLACES = np.random.default_rng(3).integers(0, 16, (30, 41), np.uint8)


def paletted(places: np.ndarray = PLACES) -> Image.Image:
    image = Image.fromarray(places, "P")
    image.putpalette(COLORS.tobytes())
    return image


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data))


@pytest.mark.parametrize("interlace", [0, 1])
def test_its_colors_are_those_of_its_palette(interlace):
    np.testing.assert_array_equal(decoded(encoded(paletted(), "GIF", interlace=interlace)), COLORS[PLACES])


def test_grays_are_read():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(gray), "GIF")), np.repeat(gray[..., None], 3, 2))


def test_a_transparent_color_lies_on_white():
    expected = COLORS[PLACES].copy()
    expected[PLACES == 5] = 255
    np.testing.assert_array_equal(decoded(encoded(paletted(), "GIF", transparency=5)), expected)


def test_a_transparent_gray_lies_on_white():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = encoded(Image.fromarray(gray), "GIF", transparency=7)
    assert decoded(data)[0, 7].tolist() == [255, 255, 255]
    assert decoded(data)[0, 8].tolist() == [8, 8, 8]


def test_the_first_frame_of_an_animation_is_read():
    frames = [paletted(), *(Image.new("RGB", (41, 30), color) for color in ("red", "blue"))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100, loop=0)
    np.testing.assert_array_equal(decoded(data), COLORS[PLACES])


def pixel(screen: tuple[int, int], frame: tuple[int, int, int, int], control: bytes = b"") -> bytes:
    """A GIF by hand, of black and white, with a frame of one row of two white pixels."""
    head = b"GIF89a" + b"".join(n.to_bytes(2, "little") for n in screen) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    descriptor = b"\x2c" + b"".join(n.to_bytes(2, "little") for n in frame) + b"\0"
    # Codes of three bits: clear (4), 1, 1, end (5).
    bits = 4 | 1 << 3 | 1 << 6 | 5 << 9
    return head + control + descriptor + b"\2\2" + bits.to_bytes(2, "little") + b"\0;"


def test_a_frame_lies_where_the_file_says():
    expected = np.zeros((3, 4, 3), np.uint8)
    expected[2, 1:3] = 255
    np.testing.assert_array_equal(decoded(pixel((4, 3), (1, 2, 2, 1))), expected)


def test_comments_do_not_matter():
    comment = b"\x21\xfe\5hello\0" * 3
    assert decoded(pixel((2, 1), (0, 0, 2, 1), comment)).min() == 255


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pixel((2, 1), (1, 0, 2, 1)), "beyond the image"),
        (pixel((60_000, 60_000), (0, 0, 2, 1)), "60000x60000"),
        (pixel((2, 1), (0, 0, 2, 1))[:19], "no image"),
        (b"GIF89a\1", "header is incomplete"),
        (pixel((2, 1), (0, 0, 2, 1), b"\x21\xfe\1a\0" * 20_000), "no image"),
    ],
)
def test_a_gif_that_cannot_be_read_is_refused(data, words):
    with pytest.raises(ImageError, match=words):
        decode_image(data)


def test_pixels_that_are_missing_are_not_made_up():
    data = encoded(paletted(np.random.default_rng(0).integers(0, 16, (100, 100), np.uint8)), "GIF")
    with pytest.raises(ImageError, match="damaged or cut short"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize(("name", "kinds"), [("GIF", "RGB"), ("WEBP", "RGBA"), ("PNG", "RGBA")])
def test_a_file_of_several_frames_is_known_as_animated(name, kinds):
    frames = [Image.new(kinds, (20, 10), color) for color in ("red", "green", "blue")]
    several = {"save_all": True, "duration": 100}
    assert read_image(encoded(frames[0], name, append_images=frames[1:], **several)).animated
    assert not read_image(encoded(frames[0], name)).animated
    assert not read_image(encoded(frames[0], name, append_images=[], **several)).animated
