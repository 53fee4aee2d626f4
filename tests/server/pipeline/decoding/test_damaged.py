"""Damaged images of every format, mutated by what the format says: each is read at its header's size, or refused in words."""

from __future__ import annotations

import itertools
import random
import re
import resource
import struct
import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from server.pipeline.decoding.file import ImageError
from server.pipeline.images import decode_image, read_image
from tests.support.image_files import (
    P3,
    SIGNATURE,
    chunk,
    encoded,
    png,
    png_chunks,
    profile,
    riff,
    riff_chunks,
    segments,
    tiff,
)

#: Sizes and lengths that parsers get wrong.
ODD = (0, 1, 2, 3, 7, 255, 256, 2000, 8192, 65535, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)
Mutate = Callable[[random.Random], bytes]


def _pictures() -> Iterator[tuple[str, bytes]]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 4), np.uint8)
    rgba = Image.fromarray(pixels)
    rgb = rgba.convert("RGB")
    exif = tiff((0x112, 3, 1, 6))
    yield "png", png(pixels, 8, 6, chunk(b"eXIf", exif[6:]), chunk(b"tEXt", b"parameters\0a circle"))
    yield "png", png(pixels[..., :1] % 16, 4, 3, chunk(b"PLTE", bytes(range(48))), chunk(b"tRNS", bytes(16)))
    yield "png", png(pixels[..., :3].astype(int) * 257, 16, 2, chunk(b"tRNS", bytes(6)), interlaced=True)
    yield "png", encoded(rgb, save_all=True, append_images=[rgb.rotate(90)], icc_profile=b"no profile")
    yield "jpeg", encoded(rgb, "JPEG", exif=exif, icc_profile=profile(P3, 2.2))
    yield "jpeg", encoded(rgb, "JPEG", progressive=True, subsampling=0, restart_marker_blocks=2)
    yield "jpeg", encoded(rgb.convert("CMYK"), "JPEG")
    yield "jpeg", encoded(rgb.convert("L"), "JPEG", comment=b"a comment")
    yield "webp", encoded(rgba, "WEBP", lossless=True, exif=exif)
    yield "webp", encoded(rgba, "WEBP", quality=60, xmp=b'<x tiff:Orientation="3"/>', icc_profile=profile(P3, 2.2))
    yield "webp", encoded(rgb, "WEBP", quality=60)
    yield "webp", encoded(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(90)], lossless=True)
    yield "gif", encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)], comment=b"a comment")
    yield "gif", encoded(rgb.convert("P"), "GIF", transparency=3, interlace=1)


PICTURES = list(_pictures())


def _odd_bytes(rng: random.Random, data: bytes) -> bytes:
    """Change a few bytes, cut a piece out, double a piece, or cut off the end."""
    start, length = rng.randrange(len(data) or 1), rng.choice((1, 2, 4, 16, 200))
    kind = rng.randrange(4)
    if kind == 0:
        return data[:start] + rng.randbytes(length) + data[start + length :]
    if kind == 1:
        return data[:start] + data[start + length :]
    if kind == 2:
        return data[: start + length] + data[start:]
    return data[:start]


def _shuffled(rng: random.Random, items: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Double, drop, move or empty a chunk, or change its content."""
    items = list(items)
    at, to = rng.randrange(len(items)), rng.randrange(len(items))
    kind, content = items[at]
    what = rng.randrange(5)
    if what == 0:
        items.insert(to, items[at])
    elif what == 1:
        del items[at]
    elif what == 2:
        items.insert(to, items.pop(at))
    elif what == 3:
        items[at] = kind, content[: rng.randrange(len(content) + 1)]
    else:
        items[at] = kind, _odd_bytes(rng, content) if content else b"\0"
    return items


def _number(rng: random.Random, content: bytes, form: str) -> bytes:
    """Put an odd number at a place of the content."""
    size = struct.calcsize(form)
    at = rng.randrange(max(1, len(content) - size + 1))
    return content[:at] + struct.pack(form, rng.choice(ODD) % 256**size) + content[at + size :]


def mutate_png(rng: random.Random, data: bytes) -> bytes:
    items = list(png_chunks(data))
    what = rng.randrange(5)
    if what == 0:
        head = _number(rng, items[0][1], rng.choice((">I", ">B")))
        items[0] = items[0][0], head
    elif what == 1:
        items = _shuffled(rng, items)
    elif what == 2:
        items.insert(
            1, (rng.choice((b"eXIf", b"iCCP", b"tRNS", b"PLTE", b"iTXt", b"zTXt", b"acTL", b"fcTL")), rng.randbytes(30))
        )
    elif what == 3:
        items.insert(1, (b"eXIf", random_exif(rng)[6:]))
    whole = [chunk(*item) for item in items]
    if what == 4:
        # A wrong length or a wrong checksum.
        at, where = rng.randrange(len(whole)), rng.choice((0, -4))
        place = len(whole[at]) + where if where else 0
        whole[at] = whole[at][:place] + struct.pack(">I", rng.choice(ODD)) + whole[at][place + 4 :]
    return SIGNATURE + b"".join(whole)


def mutate_jpeg(rng: random.Random, data: bytes) -> bytes:
    items = [(bytes([marker]), content) for marker, content in segments(data)]
    what, at = rng.randrange(5), rng.randrange(len(items) - 1)
    kind, content = items[at]
    length = None
    if what == 0:
        items[:-1] = _shuffled(rng, items[:-1])
    elif what == 1 and content:
        items[at] = kind, _number(rng, content, rng.choice((">H", ">B")))
    elif what == 2:
        frame = next(i for i, (marker, _) in enumerate(items) if marker[0] in (0xC0, 0xC2))
        items[frame] = items[frame][0], _number(rng, items[frame][1], rng.choice((">H", ">B")))
    elif what == 3:
        items.insert(rng.randrange(len(items)), (b"\xe1", random_exif(rng)))
    else:
        length = rng.choice(ODD) % 65536
    body = b"\xff\xd8"
    for i, (marker, part) in enumerate(items[:-1]):
        size = length if length is not None and i == at else len(part) + 2
        body += b"\xff" + marker + struct.pack(">H", size % 65536) + part
    return body + b"\xff\xda" + (_odd_bytes(rng, items[-1][1]) if what == 4 else items[-1][1])


def mutate_webp(rng: random.Random, data: bytes) -> bytes:
    items = list(riff_chunks(data))
    what, at = rng.randrange(5), rng.randrange(len(items))
    if what == 0:
        items = _shuffled(rng, items)
    elif what == 1:
        items[at] = items[at][0], _number(rng, items[at][1], rng.choice(("<I", "<H", "<B")))
    elif what == 2:
        items.append((b"EXIF", random_exif(rng)))
    elif what == 3:
        kind, content = items[0]
        items[0] = kind, _number(rng, content[:30], rng.choice(("<I", "<H", "<B"))) + content[30:]
    whole = riff(*items)
    if what == 4:
        # A wrong size of the file or of a chunk.
        place = rng.choice((4, 16, 12 + sum(8 + len(c) + len(c) % 2 for _, c in items[:at]) + 4))
        whole = whole[:place] + struct.pack("<I", rng.choice((*ODD, len(whole)))) + whole[place + 4 :]
    return whole


def mutate_gif(rng: random.Random, data: bytes) -> bytes:
    """Put an odd number into the header, or into what may be a frame's or an extension's head."""
    at = rng.choice((6, data.find(b"\x2c", 13), data.find(b"\x21", 13), data.rfind(b"\x2c")))
    return data[:at] + _number(rng, data[at : at + 10], rng.choice(("<H", "<B"))) + data[at + 10 :]


def random_exif(rng: random.Random) -> bytes:
    tags = (0x112, 0x11A, 0x11B, 0x128, 0x8769, 0x8825, 0x927C, 0x14A, 0xA005, 0x201)
    entries = [
        (rng.choice(tags), rng.randrange(15), rng.choice(ODD), rng.choice((*ODD, 8, 20, 26)))
        for _ in range(rng.randrange(6))
    ]
    data = tiff(*entries, (0x112, 3, 1, rng.randrange(10)), order=rng.choice("<>"))
    return _odd_bytes(rng, data) if rng.random() < 0.3 else data


MUTATIONS = {"png": mutate_png, "jpeg": mutate_jpeg, "webp": mutate_webp, "gif": mutate_gif}


def mutated(rng: random.Random) -> bytes:
    name, data = rng.choice(PICTURES)
    for _ in range(rng.choice((1, 1, 1, 2))):
        try:
            data = (_odd_bytes if rng.random() < 0.25 else MUTATIONS[name])(rng, data)
        except (IndexError, ValueError, StopIteration, struct.error):
            data = _odd_bytes(rng, data)  # the second mutation cannot read what the first has left
    return data


def check(data: bytes) -> bool:
    """Return whether the image was read; fail unless it was, or was refused as it should be."""
    try:
        file = read_image(data)
        image = decode_image(data)
    except ImageError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) < 300, message
        assert not re.search(r"[<>'\"\\]|/|b'|object at", message), message
        return False
    sideways = file.orientation >= 5
    assert image.mode == "RGB"
    assert image.size == ((file.height, file.width) if sideways else (file.width, file.height))
    return True


def check_mutated(count: int, seed: int) -> None:
    rng = random.Random(seed)
    read = 0
    for number in range(count):
        data = mutated(rng)
        try:
            read += check(data)
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {seed}: {error!r}") from error
    # Neither are all refused nor is all damage overlooked.
    assert count / 5 < read < 4 * count / 5


def memory() -> int:
    """Return the most bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_two_thousand_damaged_images_are_read_or_refused() -> None:
    check_mutated(2000, 1)


@pytest.mark.slow
def test_many_damaged_images_are_read_or_refused_in_bounded_memory() -> None:
    check_mutated(50, 2)
    before = memory()
    check_mutated(20_000, 3)
    # A damaged header may say 32 megapixels, which `decode_image` decodes with three copies.
    assert memory() - before < 500_000_000


@pytest.mark.parametrize("number", range(len(PICTURES)))
def test_an_image_cut_short_anywhere_is_read_or_refused(number: int) -> None:
    _, data = PICTURES[number]
    assert check(data)
    read = [check(data[:length]) for length in range(0, len(data), 1 + len(data) // 300)]
    assert sum(read[: len(read) // 2]) == 0 or "ANMF" in repr(data) or b"acTL" in data


def test_the_exif_of_any_type_count_and_place_is_read_over() -> None:
    rng = random.Random(4)
    _, plain = PICTURES[4]
    start = plain[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind, count, value in itertools.product(range(14), (0, 1, 2**16, 2**32 - 1), (0, 8, 2**32 - 1)):
            exif = tiff((rng.choice((0x11A, 0x8769, 0x927C)), kind, count, value), (0x112, 3, 1, 8))
            data = start + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
            assert decode_image(data).size == (24, 32)
