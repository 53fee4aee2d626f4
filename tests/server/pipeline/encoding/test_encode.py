"""Images that go out: their pixels, their parameters as AUTOMATIC1111 reads them, and the mark that a model made them."""

from __future__ import annotations

import io
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from server.pipeline.encoding.encode import encode_as, encode_png, is_whole_png
from server.pipeline.encoding.formats import FORMATS, JPEG, PNG, WEBP, format_of_suffix
from server.pipeline.encoding.xmp import source_type, xmp_packet
from tests.support.a1111_images import read_parameters
from tests.support.image_files import png_chunks, riff_chunks, segments

#: A gradient, which lossy formats keep within a few levels.
RAMP = np.stack(np.broadcast_arrays(np.arange(64)[:, None] * 4, np.arange(48)[None] * 5, 128), -1).astype(np.uint8)
TEXT = 'ünï 日本語 🎈 <&>"\nNegative prompt: a, b\nSteps: 3, Sampler: Euler'
_RDF, _IPTC = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}", "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def xmp_in(data: bytes) -> bytes | None:
    """The XMP packet where each format's specification has it."""
    if data.startswith(b"\x89PNG"):
        texts = [content for kind, content in png_chunks(data) if kind == b"iTXt"]
        return next((t.split(b"\0\0\0\0\0", 1)[1] for t in texts if t.startswith(b"XML:com.adobe.xmp\0")), None)
    if data.startswith(b"RIFF"):
        return dict(riff_chunks(data)).get(b"XMP ")
    head = b"http://ns.adobe.com/xap/1.0/\0"
    return next((c[len(head) :] for m, c in segments(data) if m == 0xE1 and c.startswith(head)), None)


def digital_source_type(packet: bytes) -> str:
    """The Digital Source Type, as any reader of XML finds it."""
    (description,) = ElementTree.fromstring(packet.decode()).iter(f"{_RDF}Description")
    return description.attrib[f"{_IPTC}DigitalSourceType"]


@pytest.mark.parametrize("text", ["plain", "ünï", "日本語 🎈\nSteps: 3", ""])
def test_a_png_carries_its_parameters(text):
    data = encode_png(RAMP, text)
    read = Image.open(io.BytesIO(data))
    assert read.text["parameters"] == text
    np.testing.assert_array_equal(np.asarray(read), RAMP)
    assert is_whole_png(data)
    assert xmp_in(data) is None


@pytest.mark.parametrize("name", FORMATS)
def test_parameters_are_read_from_every_format_as_a1111_reads_them(name):
    assert read_parameters(encode_as(encode_png(RAMP, TEXT, source_type(has_source=False)), FORMATS[name])) == TEXT


@pytest.mark.parametrize("has_source", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_that_a_model_made_the_image(name, has_source):
    kind = "compositeWithTrainedAlgorithmicMedia" if has_source else "trainedAlgorithmicMedia"
    data = encode_as(encode_png(RAMP, TEXT, source_type(has_source=has_source)), FORMATS[name])
    packet = xmp_in(data)
    assert packet is not None
    assert digital_source_type(packet) == f"http://cv.iptc.org/newscodes/digitalsourcetype/{kind}"
    # And where Pillow looks for it.
    assert Image.open(io.BytesIO(data)).info["xmp"] == packet


@pytest.mark.parametrize("name", FORMATS)
def test_an_unmarked_image_stays_unmarked_in_every_format(name):
    data = encode_as(encode_png(RAMP, TEXT), FORMATS[name])
    assert xmp_in(data) is None
    assert read_parameters(data) == TEXT


def test_a_packet_begins_and_ends_as_xmp_does():
    packet = xmp_packet("trainedAlgorithmicMedia")
    assert packet.startswith(b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>')
    assert packet.endswith(b'<?xpacket end="r"?>')


@pytest.mark.parametrize(("to", "most"), [(PNG, 0), (JPEG, 4), (WEBP, 12)])
def test_pixels_are_kept_as_well_as_the_format_can(to, most):
    data = encode_as(encode_png(RAMP, TEXT), to, None if to == PNG else 100)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == to.name.upper()
        got = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(got - RAMP).max() <= most


@pytest.mark.parametrize("to", [JPEG, WEBP])
def test_a_lower_quality_makes_a_smaller_file(to):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    sizes = [len(encode_as(encode_png(noise, ""), to, quality)) for quality in (1, 50, None, 100)]
    assert sizes == sorted(set(sizes))


def test_the_colors_of_a_jpeg_have_full_resolution():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    with Image.open(io.BytesIO(encode_as(encode_png(stripes, ""), JPEG))) as image:
        assert np.abs(np.asarray(image).astype(int) - stripes).max() < 40


def test_parameters_too_long_for_a_segment_are_left_out_of_a_jpeg_only():
    text = "x" * 40_000
    png = encode_png(RAMP, text)
    assert read_parameters(encode_as(png, JPEG)) is None
    assert read_parameters(encode_as(png, WEBP)) == text


def test_the_longest_parameters_that_fit_are_in_a_jpeg():
    text = "x" * 32_700
    assert read_parameters(encode_as(encode_png(RAMP, text), JPEG)) == text


@pytest.mark.parametrize(
    ("suffix", "to"),
    [(".png", PNG), (".jpg", JPEG), (".JPEG", JPEG), (".webp", WEBP), (".gif", None), ("", None)],
)
def test_a_files_suffix_names_its_format(suffix, to):
    assert format_of_suffix(suffix) == to


@pytest.mark.parametrize("to", [JPEG, WEBP])
def test_an_image_of_512_pixels_is_encoded_in_no_time(to):
    scene = np.asarray(Image.fromarray(RAMP).resize((512, 512)))
    png = encode_png(scene, TEXT)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        encode_as(png, to)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.1  # 7 and 14 ms on a quiet core
