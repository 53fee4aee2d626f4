"""An image's colors: those that were painted, with their shares, and the same every time."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from server.pipeline.images import ImageError
from server.pipeline.palette.extraction import Color, palette_of, palette_of_file, strip
from tests.support.image_files import encoded

SKY, GRASS, SUN = (80, 140, 220), (60, 150, 70), (250, 220, 60)


def painted(*parts, side=250):
    """Return an image of horizontal bands: (color, share) each."""
    pixels, top = np.zeros((side, side, 3), np.uint8), 0
    for color, share in parts:
        rows = round(share * side)
        pixels[top : top + rows] = color
        top += rows
    return pixels


SCENE = painted((GRASS, 0.3), (SKY, 0.6), (SUN, 0.1))


def test_colors_come_with_their_shares_the_largest_first():
    sky, grass, sun = palette_of(SCENE, 3)
    for found, rgb, share in ((sky, SKY, 0.6), (grass, GRASS, 0.3), (sun, SUN, 0.1)):
        assert np.abs(np.subtract(found.rgb, rgb)).max() <= 3
        assert found.share == pytest.approx(share, abs=0.02)
    assert sum(color.share for color in palette_of(SCENE, 3)) == pytest.approx(1)


def test_an_image_has_the_same_palette_every_time():
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    assert palette_of(noise, 8) == palette_of(noise.copy(), 8)


@pytest.mark.parametrize("count", [2, 5, 16])
def test_a_palette_has_at_most_as_many_colors_as_asked_for(count):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert len(palette_of(noise, count)) == count
    assert len(palette_of(SCENE, count)) <= count


def test_an_image_of_one_color_has_a_palette_of_one():
    assert palette_of(np.full((40, 30, 3), 128, np.uint8), 5) == (Color((128, 128, 128), 1.0),)


def test_colors_that_look_the_same_are_one():
    first, second = (100, 100, 100), (103, 103, 103)
    assert len(palette_of(painted((first, 0.5), (second, 0.5)), 4)) == 1


def test_fewer_colors_are_nearer_to_the_pixels_than_median_cut_finds():
    # An independent palette: Pillow's median cut, which works in sRGB.
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8))
    pixels = np.asarray(small.resize((128, 128), Image.Resampling.BICUBIC))
    theirs = Image.fromarray(pixels).quantize(6, Image.Quantize.MEDIANCUT).convert("RGB")
    colors = np.asarray([color.rgb for color in palette_of(pixels, 6)], np.float64)
    distances = ((pixels.reshape(-1, 1, 3) - colors) ** 2).sum(2).min(1)
    assert distances.mean() < ((pixels - np.asarray(theirs, np.float64)) ** 2).sum(2).mean()


def test_a_palette_of_512x512_takes_less_than_50_ms_of_one_core():
    small = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((512, 512), Image.Resampling.BICUBIC))
    palette_of(pixels, 16)
    times = []
    for _ in range(5):
        began = time.thread_time()
        palette_of(pixels, 16)
        times.append(time.thread_time() - began)
    assert min(times) < 0.05


def test_a_file_is_decoded_with_transparency_on_white():
    clear = np.zeros((20, 20, 4), np.uint8)
    clear[:5] = (*SKY, 255)
    white, sky = palette_of_file(encoded(Image.fromarray(clear)), 2)
    assert white.hex == "#ffffff"
    assert white.share == pytest.approx(0.75)
    assert sky.rgb == SKY
    with pytest.raises(ImageError):
        palette_of_file(b"no image")


def test_a_large_file_has_the_palette_of_the_whole_image():
    scene = Image.fromarray(SCENE).resize((4200, 1000), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (encoded(scene, "JPEG"), encoded(scene, "JPEG", exif=exif)):
        shares = [round(color.share, 1) for color in palette_of_file(file, 3)]
        assert shares == [0.6, 0.3, 0.1]


def test_a_strip_shows_the_colors_from_left_to_right():
    image = np.asarray(Image.open(io.BytesIO(strip((Color(SKY, 0.6), Color(SUN, 0.4))))))
    assert image.shape == (64, 128, 3)
    assert tuple(image[0, 0]) == SKY
    assert tuple(image[-1, -1]) == SUN
    assert Color(SUN, 0.4).hex == "#fadc3c"
