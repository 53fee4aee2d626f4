"""The pixels of every kind of PNG, JPEG and WebP, against what the tests wrote, computed with NumPy."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from server.pipeline.decoding import webp
from server.pipeline.decoding.file import ImageError
from server.pipeline.images import decode_image, read_image
from tests.support.image_files import CHANNELS, chunk, encoded, png, riff, riff_chunks

RNG = np.random.default_rng(5)
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
KINDS = [(color_type, depth) for color_type, depths in DEPTHS.items() for depth in depths]


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data)).astype(int)


def on_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colors [H, W, 3] and alpha [H, W], both from 0 to 1, as levels on white."""
    return 255 * (colors * alpha[..., None] + 1 - alpha[..., None])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(("color_type", "depth"), KINDS)
def test_a_png_is_read_as_it_was_written(color_type, depth, transparent, interlaced):
    samples = RNG.integers(0, 1 << depth, (13, 21, CHANNELS[color_type]))
    most, extra = (1 << depth) - 1, []
    palette = RNG.integers(0, 256, (1 << depth if color_type == 3 else 1, 3))
    colors, alpha = samples / most, np.ones((13, 21))
    if color_type == 3:
        extra.append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
        colors = palette[samples[..., 0]] / 255
    if color_type in (4, 6):
        alpha, colors = colors[..., -1], colors[..., :-1]
    elif transparent and color_type == 3:
        alphas = RNG.integers(0, 256, len(palette))
        extra.append(chunk(b"tRNS", alphas.astype(np.uint8).tobytes()))
        alpha = alphas[samples[..., 0]] / 255
    elif transparent:
        key = samples[4, 7]
        extra.append(chunk(b"tRNS", key.astype(">u2").tobytes()))
        alpha = np.where((samples == key).all(-1), 0.0, 1.0)
    expected = on_white(np.broadcast_to(colors, (13, 21, 3)), alpha)
    data = png(samples, depth, color_type, *extra, interlaced=interlaced)
    # Pillow cuts 16 bits of color and of alpha to 8, which is up to 1 each; then half of 1 by rounding on white.
    np.testing.assert_allclose(decoded(data), expected, atol=2.5 if depth == 16 else 1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True, "restart_marker_blocks": 1}])
def test_a_jpeg_has_the_colors_it_was_made_of(mode, options):
    color = 90 if mode == "L" else (200, 90, 30)
    data = encoded(Image.new(mode, (40, 24), color), "JPEG", quality=95, **options)
    np.testing.assert_allclose(decoded(data), np.broadcast_to(color, (24, 40, 3)), atol=2)


@pytest.mark.parametrize("inks", [(0, 0, 0, 0), (255, 0, 0, 0), (30, 60, 90, 20), (0, 0, 0, 255)])
def test_the_inks_of_a_jpeg_of_adobe_are_inverted(inks):
    data = encoded(Image.new("CMYK", (16, 16), inks), "JPEG", quality=100)
    expected = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]
    np.testing.assert_allclose(decoded(data)[8, 8], expected, atol=3)
    assert b"Adobe" in data


def test_a_jpeg_whose_inks_are_stored_as_luminance_and_color_is_read():
    data = encoded(Image.new("CMYK", (16, 16), (30, 30, 30, 90)), "JPEG", quality=100)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    # As YCCK the first three channels are Y, Cb and Cr: (225, 225, 225) inverted is far from gray.
    luma, blue, red = 225, 225 - 128, 225 - 128
    rgb = np.array([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]).clip(0, 255)
    expected = (255 - rgb.round()) * (255 - 90) / 255
    ycck = data[:at] + b"\2" + data[at + 1 :]
    assert np.abs(decoded(ycck)[8, 8] - expected).max() <= 3


@pytest.fixture(params=["libwebp", "pillow"])
def webp_decoder(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr(webp, "_decoder", lambda: None)


@pytest.mark.usefixtures("webp_decoder")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_lossless_webp_is_read_exactly(mode):
    pixels = RNG.integers(0, 256, (30, 40, len(mode)), np.uint8)
    got = decoded(encoded(Image.fromarray(pixels), "WEBP", lossless=True, exact=True))
    alpha = pixels[..., 3] / 255 if mode == "RGBA" else np.ones((30, 40))
    np.testing.assert_allclose(got, on_white(pixels[..., :3] / 255, alpha), atol=1)


@pytest.mark.usefixtures("webp_decoder")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("animated", [False, True])
def test_a_lossy_webp_has_the_pixels_that_pillow_reads(mode, animated):
    first = Image.fromarray(RNG.integers(0, 256, (30, 40, len(mode)), np.uint8))
    more = {"save_all": True, "append_images": [Image.new(mode, (40, 30), "red")]} if animated else {}
    data = encoded(first, "WEBP", quality=70, **more)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(np.asarray(webp.decode(read_image(data))), expected)


@pytest.mark.usefixtures("webp_decoder")
@pytest.mark.parametrize("quality", [60, 100])
def test_a_webp_that_is_cut_short_is_refused(quality):
    whole = encoded(Image.fromarray(RNG.integers(0, 256, (30, 40, 3), np.uint8)), "WEBP", quality=quality)
    with pytest.raises(ImageError, match="damaged or cut short"):
        decode_image(whole[: len(whole) // 2])


@pytest.mark.usefixtures("webp_decoder")
def test_the_first_frame_of_an_animated_webp_lies_where_the_file_says():
    still = encoded(Image.new("RGB", (6, 4), "red"), "WEBP", lossless=True)
    (kind, content), *_ = riff_chunks(still)
    where = b"".join(n.to_bytes(3, "little") for n in (4 // 2, 2 // 2, 6 - 1, 4 - 1, 100)) + b"\0"
    frame = where + riff((kind, content))[12:]
    canvas = b"\x02\0\0\0" + (20 - 1).to_bytes(3, "little") + (10 - 1).to_bytes(3, "little")
    data = riff((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame))
    expected = np.full((10, 20, 3), 255)
    expected[2:6, 4:10] = 255, 0, 0
    np.testing.assert_array_equal(decoded(data), expected)


def test_a_frame_that_reaches_beyond_its_image_is_refused():
    still = encoded(Image.new("RGB", (6, 4), "red"), "WEBP", lossless=True)
    frame = b"".join(n.to_bytes(3, "little") for n in (4, 2, 5, 3, 100)) + b"\0" + still[12:]
    canvas = b"\x02\0\0\0" + (10 - 1).to_bytes(3, "little") + (10 - 1).to_bytes(3, "little")
    with pytest.raises(ImageError, match="contradict"):
        decode_image(riff((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame)))


def test_the_first_frame_of_an_animated_png_is_read():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert decoded(data)[4, 4].tolist() == [255, 0, 0]


def exif(turn: int) -> Image.Exif:
    found = Image.Exif()
    found[0x112] = turn
    return found


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_format_is_turned_upright_as_pillow_turns_it(kind, turn):
    image = Image.fromarray(RNG.integers(0, 256, (16, 24, 3), np.uint8))
    data = encoded(image, kind, exif=exif(turn), **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened)
        np.testing.assert_array_equal(decoded(data), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize("packed", [False, True])
def test_the_orientation_in_a_raw_profile_or_in_xmp_of_a_png_counts(packed):
    samples = RNG.integers(0, 256, (4, 8, 3))
    raw = (
        b"\nexif\n%8d\n" % 26 + (b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)).hex().encode()
    )
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    pack = zlib.compress if packed else bytes
    of_exif = chunk(b"zTXt" if packed else b"tEXt", b"Raw profile type exif\0" + b"\0" * packed + pack(raw))
    of_xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes([packed, 0, 0, 0]) + pack(xmp))
    for extra in (of_exif, of_xmp):
        assert decode_image(png(samples, 8, 2, extra)).size == (4, 8)


@pytest.mark.parametrize("by", ["pillow", "hand"])
def test_the_first_image_of_an_mpo_is_read_upright(by):
    first, second = (Image.new("RGB", (24, 16), color) for color in ("red", "blue"))
    if by == "pillow":
        data = encoded(first, "MPO", save_all=True, append_images=[second], exif=exif(6))
        assert data.count(b"MPF\0") >= 1
    else:
        # As phones write depth maps and gain maps: a whole second JPEG after the end of the first.
        data = encoded(first, "JPEG", exif=exif(6)) + encoded(second, "JPEG")
    got = decoded(data)
    assert got.shape == (24, 16, 3)
    np.testing.assert_allclose(got, np.broadcast_to((254, 0, 0), (24, 16, 3)), atol=2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC image, as iPhones save it; accepted: .*sips -s format png"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "AVIF image; accepted: .*sips"),
        (b"II*\0" + bytes(20), "TIFF or camera raw image; accepted: .*sips"),
        (b"PK\3\4" + bytes(20), "megapixels$"),
    ],
)
def test_what_is_refused_is_named_and_how_to_convert_it(data, words):
    with pytest.raises(ImageError, match=words):
        decode_image(data)
