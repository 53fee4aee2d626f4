"""Color profiles: colors are converted to sRGB by them, and a damaged one changes nothing."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from server.pipeline.images import decode_image, fit_image
from tests.support.image_files import P3, chunk, encoded, gray_profile, png, profile, riff

#: XYZ's columns for red, green and blue of sRGB, adapted to D50 (as in the ICC's profile).
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
COLORS = np.random.default_rng(3).integers(0, 256, (12, 12, 3), np.uint8)


def from_p3(levels: np.ndarray, gamma: float = 2.2) -> np.ndarray:
    """Levels of Display P3 with a plain gamma as levels of sRGB, clipped, by the definition of both."""
    linear = (levels / 255) ** gamma @ np.linalg.solve(SRGB, P3).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def with_profile(kind: str, icc: bytes, levels: np.ndarray = COLORS) -> bytes:
    return encoded(Image.fromarray(levels), kind, icc_profile=icc, **({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_colors_of_display_p3_are_converted(kind):
    got = np.asarray(decode_image(with_profile(kind, profile(P3, 2.2))))
    np.testing.assert_allclose(got, from_p3(COLORS), atol=3)
    assert np.abs(got.astype(int) - COLORS).max() > 20


def test_a_photograph_of_display_p3_is_converted_large_or_small():
    icc = profile(P3, 2.2)
    small = encoded(Image.new("RGB", (64, 64), (200, 90, 60)), "JPEG", quality=95, icc_profile=icc)
    large = encoded(Image.new("RGB", (2400, 2000), (200, 90, 60)), "JPEG", quality=95, icc_profile=icc)
    expected = from_p3(np.array([200, 90, 60]))
    for data in (small, large):
        np.testing.assert_allclose(fit_image(data, 64, 64)[30, 30], expected, atol=3)


def test_grays_are_converted():
    ramp = np.arange(256, dtype=np.uint8)[None]
    linear = (ramp / 255.0) ** 1.8
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    got = np.asarray(decode_image(with_profile("PNG", gray_profile(1.8), ramp)))
    np.testing.assert_allclose(got[..., 1], expected, atol=2)


def test_transparency_is_kept_when_colors_are_converted():
    levels = np.dstack([COLORS, np.full((12, 12), 0, np.uint8)])
    levels[:, :6, 3] = 255
    got = np.asarray(decode_image(with_profile("PNG", profile(P3, 2.2), levels)))
    np.testing.assert_allclose(got[:, :6], from_p3(COLORS)[:, :6], atol=3)
    assert (got[:, 6:] == 255).all()


def test_a_profile_of_srgb_leaves_every_color_as_it_is():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("PNG", "WEBP"):
        np.testing.assert_array_equal(np.asarray(decode_image(with_profile(kind, srgb))), COLORS)


P3_PROFILE = profile(P3, 2.2)


@pytest.mark.parametrize(
    "icc",
    [b"x", b"rubbish" * 100, P3_PROFILE[:200], gray_profile(2.2), P3_PROFILE[:16] + b"CMYK" + P3_PROFILE[20:]],
    ids=["a byte", "rubbish", "cut short", "of grays", "of inks"],
)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_damaged_or_unfitting_profile_is_ignored(kind, icc):
    np.testing.assert_array_equal(np.asarray(decode_image(with_profile(kind, icc))), COLORS)


def test_a_profile_that_cannot_be_unpacked_is_ignored():
    for content in (b"name\0\0broken", b"name", b"", b"name\0\0" + zlib.compress(bytes(5_000_000))):
        np.testing.assert_array_equal(np.asarray(decode_image(png(COLORS, 8, 2, chunk(b"iCCP", content)))), COLORS)


def test_an_empty_profile_in_webp_is_ignored():
    still = encoded(Image.fromarray(COLORS), "WEBP", lossless=True)
    canvas = b"\x20\0\0\0" + (11).to_bytes(3, "little") * 2
    data = riff((b"VP8X", canvas), (b"ICCP", b""), (b"VP8L", still[20:]))
    np.testing.assert_array_equal(np.asarray(decode_image(data)), COLORS)
