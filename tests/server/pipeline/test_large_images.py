"""Large images: what comes out is what Pillow's plain way gives, in less memory."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from server.pipeline import images
from server.pipeline.decoding.file import MOST_PIXELS, ImageError
from server.pipeline.images import LARGE, as_attachment, fit_image, read_image
from tests.support.image_files import chunk, encoded, png

#: Levels: columns and rows are scaled one after the other, rounded in between, and Pillow chooses which come first.
ROUNDING = 2
SIZES = [(64, 64), (96, 64), (64, 96), (300, 20)]


@pytest.fixture(autouse=True)
def _large_is_small(monkeypatch):
    """Take every image for a large one, in strips of a few rows."""
    monkeypatch.setattr(images, "LARGE", 100)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 1000)


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth shapes, edges and a little noise."""
    y, x = np.mgrid[:height, :width]
    bands = [127 + 120 * np.sin(x / 7 + channel) * np.cos(y / (5 + channel)) for channel in range(4)]
    noise = np.random.default_rng(0).integers(-8, 8, (height, width, 4))
    return Image.fromarray((np.stack(bands, -1) + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def plainly(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """The result of Pillow's own functions, each on the whole image."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "P"):
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return np.asarray(ImageOps.fit(upright.convert("RGB"), size, Image.Resampling.LANCZOS)).astype(int)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
@pytest.mark.parametrize("of", [(211, 97), (90, 203), (64, 64), (128, 2)])
def test_a_large_png_becomes_what_pillow_makes_of_it(mode, of, size):
    data = encoded(photograph(*of, mode))
    np.testing.assert_allclose(fit_image(data, *size), plainly(data, size), atol=ROUNDING)


def test_small_images_become_exactly_what_pillow_makes_of_them(monkeypatch):
    monkeypatch.setattr(images, "LARGE", LARGE)
    for size in SIZES:
        data = encoded(photograph(90, 203, "RGBA"))
        np.testing.assert_array_equal(fit_image(data, *size), plainly(data, size))


def test_noise_differs_by_rounding_but_for_a_few_pixels():
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)))
    difference = np.abs(fit_image(data, 64, 64) - plainly(data, (64, 64)))
    assert np.percentile(difference, 99) <= ROUNDING


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("WEBP", "RGBA", {"quality": 80}),
    ],
)
def test_large_images_of_the_other_formats_do_so_too(kind, mode, options):
    data = encoded(photograph(211, 97, mode), kind, **options)
    for size in SIZES:
        np.testing.assert_allclose(fit_image(data, *size), plainly(data, size), atol=ROUNDING)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_large_image_differs_by_rounding_only(turn):
    exif = Image.Exif()
    exif[0x112] = turn
    data = encoded(photograph(211, 97), exif=exif)
    for size in SIZES:
        np.testing.assert_allclose(fit_image(data, *size), plainly(data, size), atol=ROUNDING)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_that_takes_too_much_memory_is_reduced_as_it_is_decoded(monkeypatch, mode):
    smooth = photograph(900, 600, mode).resize((1800, 1200), Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", progressive=True, quality=92)
    exact = plainly(data, (256, 256))
    monkeypatch.setattr(images, "_MOST_BYTES", 1_000_000)
    difference = np.abs(fit_image(data, 256, 256) - exact)
    assert 0 < difference.mean() < 1
    assert np.percentile(difference, 99) <= 4


def first_scan(jpeg: bytes) -> bytes:
    """The JPEG without its further scans."""
    start = jpeg.index(b"\xff\xda")
    end = min(jpeg.index(marker, start + 2) for marker in (b"\xff\xda", b"\xff\xc4"))
    return jpeg[:end] + b"\xff\xd9"


def test_the_coefficients_of_a_progressive_jpeg_count_even_if_it_has_one_scan():
    image = photograph(64, 64)
    progressive = encoded(image, "JPEG", progressive=True, subsampling=0)
    plain = encoded(image, "JPEG", subsampling=0)
    assert read_image(progressive).coefficients == 64 * 64 * 3 * 2
    assert read_image(first_scan(progressive)).coefficients == 64 * 64 * 3 * 2
    assert read_image(plain).coefficients == 0


def test_the_coefficients_of_a_jpeg_count_whose_first_scan_has_one_color_of_three():
    plain = encoded(photograph(64, 64), "JPEG", subsampling=0)
    start = plain.index(b"\xff\xda")
    scan = b"\xff\xda" + bytes((0, 8, 1)) + plain[start + 5 : start + 7] + bytes((0, 63, 0)) + plain[start + 14 :]
    assert read_image(plain[:start] + scan).coefficients == 64 * 64 * 3 * 2


def test_a_large_image_is_stored_as_what_its_job_needs():
    data = encoded(photograph(500, 400))
    stored = as_attachment(read_image(data), data, 64, 96)
    with Image.open(io.BytesIO(stored)) as image:
        assert image.size == (64, 96)
    np.testing.assert_array_equal(fit_image(stored, 64, 96), fit_image(data, 64, 96))


def test_a_small_image_is_stored_as_it_is(monkeypatch):
    monkeypatch.setattr(images, "LARGE", LARGE)
    data = encoded(photograph(500, 400))
    assert as_attachment(read_image(data), data, 64, 64) is data
    with pytest.raises(ImageError, match="damaged"):
        as_attachment(read_image(data[:-1000]), data[:-1000], 64, 64)


MEASURE = """
import resource, sys
from server.pipeline.images import as_attachment, read_image
data = sys.stdin.buffer.read()
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
as_attachment(read_image(data), data, 4096, 4096)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)
"""


def flat(kind: str, mode: str, **options: object) -> bytes:
    return encoded(Image.new(mode, (8000, 4000), (90, 60, 30, 120)[: len(mode)]), kind, **options)


def deep() -> bytes:
    return png(np.full((4000, 8000, 4), 3000, np.uint16), 16, 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: flat("PNG", "RGBA", compress_level=1),
        deep,
        lambda: flat("JPEG", "RGB"),
        lambda: flat("JPEG", "RGB", progressive=True, subsampling=0),
        lambda: flat("JPEG", "CMYK", progressive=True),
        lambda: first_scan(flat("JPEG", "CMYK", progressive=True)),
        lambda: flat("WEBP", "RGBA", lossless=True, quality=0, method=0),
        lambda: flat("WEBP", "RGBA", lossless=True, quality=0, method=0, save_all=True),
        lambda: flat("GIF", "P"),
        lambda: encoded(Image.effect_noise((8000, 4000), 90).convert("P"), "GIF", transparency=7),
    ],
    ids=[
        "RGBA",
        "16 bits",
        "JPEG",
        "progressive",
        "progressive CMYK",
        "one scan",
        "lossless WebP",
        "animated WebP",
        "GIF",
        "transparent GIF",
    ],
)
def test_an_image_of_the_largest_size_takes_less_than_300_mb(make):
    data = make()
    assert MOST_PIXELS == 8000 * 4000
    done = subprocess.run([sys.executable, "-c", MEASURE], input=data, capture_output=True, check=True)
    assert int(done.stdout) < 300_000_000


def test_a_jpeg_of_many_scans_is_refused():
    data = encoded(photograph(64, 64), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="scans; accepted: up to 50"):
        fit_image(data[:-2] + data[start:-2] * 60 + data[-2:], 64, 64)


def test_a_png_of_many_chunks_is_refused():
    with pytest.raises(ImageError, match="chunks"):
        read_image(png(np.zeros((1, 1, 1)), 8, 0, chunk(b"tEXt", b"") * 100_001))


KEPT = """
import psutil
from server.pipeline.images import return_freed_memory
return_freed_memory()
before = psutil.Process().memory_info().rss
bytearray(30 << 20)
blocks, small = [], []
for _ in range(8):
    blocks.append(bytearray(b"x") * (8 << 20))
    small.append(bytearray(100_000))  # which stays, so that the heap cannot shrink
del blocks
print(psutil.Process().memory_info().rss - before)
"""


def test_freed_memory_is_returned_to_the_system():
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, check=True)
    assert int(done.stdout) < 10_000_000
