"""Texts of image files that other programs wrote, and that somebody wrote to do harm."""

from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from server.pipeline.decoding.file import ImageError
from server.pipeline.decoding.texts import LONGEST, read_texts
from tests.support.image_files import SIGNATURE, chunk, encoded, jpeg_with, png_chunks, riff

WORDS = "ünï, naïve"
EVERYTHING = "日本語 🎈\nSteps: 3"
RED = Image.new("RGB", (4, 4), "red")


def packed(kind: bytes, keyword: bytes, text: bytes) -> bytes:
    body = zlib.compress(text)
    return chunk(kind, keyword + (b"\0\0" if kind == b"zTXt" else b"\0\1\0\0\0") + body)


def png(*chunks: bytes) -> bytes:
    """A PNG with these chunks before its pixels."""
    (header, *rest) = png_chunks(encoded(RED))
    return SIGNATURE + chunk(*header) + b"".join(chunks) + b"".join(chunk(*each) for each in rest)


def test_texts_are_read_as_pillow_reads_them():
    info = PngInfo()
    info.add_text("parameters", WORDS)
    info.add_text("workflow", EVERYTHING)
    info.add_text("packed", WORDS * 100, zip=True)
    info.add_itxt("prompt", EVERYTHING * 100, "en", "word", zip=True)
    data = encoded(RED, pnginfo=info)
    assert read_texts(data).named == dict(Image.open(io.BytesIO(data)).text)  # type: ignore[attr-defined]
    assert len(read_texts(data).named) == 4


@pytest.mark.parametrize("text", [EVERYTHING, WORDS, "naïve", "a cat"])
def test_utf_8_is_read_where_latin_1_belongs(text):
    packed_text = packed(b"zTXt", b"packed", text.encode())
    assert read_texts(png(chunk(b"tEXt", b"parameters\0" + text.encode()), packed_text)).named == {
        "parameters": text, "packed": text,
    }  # fmt: skip


def test_texts_after_the_pixels_are_read():
    whole = png()
    assert read_texts(whole[:-12] + chunk(b"tEXt", b"parameters\0a cat") + whole[-12:]).named == {"parameters": "a cat"}


@pytest.mark.parametrize(
    "bad",
    [
        packed(b"zTXt", b"bomb", bytes(100 << 20)),
        packed(b"iTXt", b"bomb", bytes(100 << 20)),
        chunk(b"zTXt", b"bomb\0\0nothing that zlib wrote"),
        chunk(b"tEXt", b"bomb\0" + bytes(LONGEST + 100)),
        chunk(b"iTXt", b"bomb\0\0\0\0\0\xff\xfe"),
        chunk(b"tEXt", b"bomb\0text")[:-1] + b"\0",
    ],
    ids=("packed", "packed international", "damaged", "long", "not UTF-8", "checksum"),
)
def test_a_text_that_cannot_be_read_hides_no_other(bad):
    found = read_texts(png(bad, chunk(b"tEXt", b"parameters\0a cat")))
    assert found.named == {"parameters": "a cat"}
    assert found.unread.keys() == {"bomb"}


def test_a_file_takes_no_more_memory_than_it_has_bytes_and_no_time():
    filling, bomb = zlib.compress(bytes(LONGEST)), zlib.compress(bytes(32 << 20))
    fillings = (chunk(b"zTXt", b"a%d\0\0" % i + filling) for i in range(4))
    data = png(*fillings, chunk(b"zTXt", b"bomb\0\0" + bomb), chunk(b"tEXt", b"b\0" + bytes(16 << 20)))
    tracemalloc.start()
    began = time.perf_counter()
    found = read_texts(data)
    seconds, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 12 << 20  # what 4 MB of text take, not what is packed
    assert len(found.named) == 4
    assert found.unread == dict.fromkeys(("bomb", "b"), "the file has more than 4194304 bytes of texts")


@pytest.mark.parametrize("cut", range(8, 80))
def test_a_file_that_is_cut_short_is_read_as_far_as_it_goes(cut):
    whole = png(chunk(b"tEXt", b"parameters\0a cat"))
    assert read_texts(whole[:cut]).named in ({}, {"parameters": "a cat"})


def test_a_file_of_a_million_chunks_is_refused():
    with pytest.raises(ImageError):
        read_texts(SIGNATURE + chunk(b"teSt", b"") * 200_000)


def exif(comment: bytes, *, order: str = ">", first: bool = False, kind: int = 7) -> bytes:
    """EXIF with a comment, in EXIF's directory or in the first one."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    inside = struct.pack(f"{order}HHHII", 1, 0x9286, kind, len(comment), 26 if first else 44) + bytes(4)
    if first:
        return mark + struct.pack(f"{order}I", 8) + inside + comment
    pointer = struct.pack(f"{order}HHHII", 1, 0x8769, 4, 1, 26) + bytes(4)
    return mark + struct.pack(f"{order}I", 8) + pointer + inside + comment


COMMENTS = {
    "A1111": (exif(b"UNICODE\0" + EVERYTHING.encode("utf-16-be")), EVERYTHING),
    "low byte first": (exif(b"UNICODE\0" + EVERYTHING.encode("utf-16-le"), order="<"), EVERYTHING),
    "low byte first in a file of the other order": (exif(b"UNICODE\0" + EVERYTHING.encode("utf-16-le")), EVERYTHING),
    "byte order mark": (exif(b"UNICODE\0" + EVERYTHING.encode("utf-16")), EVERYTHING),
    "UTF-8 called Unicode": (exif(b"UNICODE\0" + EVERYTHING.encode()), EVERYTHING),
    "ASCII": (exif(b"ASCII\0\0\0a cat\0\0"), "a cat"),
    "undefined": (exif(bytes(8) + EVERYTHING.encode()), EVERYTHING),
    "no code": (exif(EVERYTHING.encode()), EVERYTHING),
    "type of a text": (exif(b"ASCII\0\0\0a cat\0", kind=2), "a cat"),
    "first directory": (exif(b"UNICODE\0" + EVERYTHING.encode("utf-16-be"), first=True), EVERYTHING),
    "none": (exif(b""), None),
    "a camera's, of spaces": (exif(b"ASCII\0\0\0" + b" " * 200), None),
    "a camera's, of zeros": (exif(bytes(200)), None),
    "no TIFF": (b"nothing", None),
    "past the end": (exif(b"ASCII\0\0\0a cat")[:-20], None),
}


@pytest.mark.parametrize("name", COMMENTS)
def test_the_comment_of_exif_is_read_from_every_format(name):
    content, text = COMMENTS[name]
    files = {
        "JPEG": jpeg_with(b"Exif\0\0" + content),
        "WebP": riff((b"VP8 ", bytes(10)), (b"EXIF", content)),
        "WebP with JPEG's mark": riff((b"VP8 ", bytes(10)), (b"EXIF", b"Exif\0\0" + content)),
        "PNG": png(chunk(b"eXIf", content)),
    }
    assert {kind: read_texts(data).user_comment for kind, data in files.items()} == dict.fromkeys(files, text)


def test_a_comment_in_jis_is_refused_by_word():
    found = read_texts(jpeg_with(b"Exif\0\0" + exif(b"JIS\0\0\0\0\0\x1b$B")))
    assert found.user_comment is None
    assert found.unread == {"UserComment": "it is in JIS; ASCII and Unicode are read"}


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_plain_comments_are_read_as_pillow_reads_them(kind):
    data = encoded(RED, kind, comment=EVERYTHING.encode() * 20)
    assert read_texts(data).named == {"comment": EVERYTHING * 20}
    assert read_texts(encoded(RED, kind)).named == {}


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff", SIGNATURE, b"RIFF\0\0\0\0WEBP", b"BM" + bytes(100)])
def test_other_files_have_no_texts(data):
    assert read_texts(data).named == {}


def test_damaged_files_are_read_as_far_as_they_go():
    draw = random.Random(3)
    comment = exif(b"UNICODE\0" + EVERYTHING.encode("utf-16-be"))
    files = (
        png(chunk(b"tEXt", b"a\0b"), packed(b"iTXt", b"c", b"d" * 99), chunk(b"eXIf", comment)),
        jpeg_with(b"Exif\0\0" + comment),
        riff((b"VP8 ", bytes(10)), (b"EXIF", comment)),
        encoded(RED, "GIF", comment=b"a cat" * 99),
    )
    read = 0
    for _ in range(2000):
        data = bytearray(draw.choice(files))
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(12, len(data))] = draw.randrange(256)
        found = read_texts(bytes(data))
        read += bool(found.named or found.user_comment)
    assert read > 1000
