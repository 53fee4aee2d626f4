"""Takes WebP files apart (RFC 9649), and decodes them with half of the memory that Pillow takes."""

from __future__ import annotations

import ctypes
import io
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, _webp

from server.pipeline.decoding.file import LONGEST_PROFILE, LONGEST_TEXT, ImageError, ImageFile, damaged
from server.pipeline.decoding.orientation import orientation

_PIXELS = (b"ALPH", b"VP8 ", b"VP8L")
_MOST_CHUNKS = 10_000
_HAS_ALPHA = 0x10


def is_webp(data: bytes) -> bool:
    """Return whether the file begins as a WebP image does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def take_apart(data: bytes) -> ImageFile:
    """Return the image, or the first frame of an animated one, without metadata; raise ImageError if there is none."""
    found: dict[bytes, memoryview] = {}
    pieces = frames = list(chunks(memoryview(data)[12:]))
    for kind, content, _ in pieces:
        found.setdefault(kind, content)
    parts = tuple(whole for kind, _, whole in pieces if kind in _PIXELS)
    left = top = 0
    if (frame := found.get(b"ANMF")) is not None and len(frame) > 16:
        left, top = 2 * _three_bytes(frame, 0), 2 * _three_bytes(frame, 3)
        pieces = list(chunks(frame[16:]))
        parts = tuple(whole for kind, _, whole in pieces if kind in _PIXELS)
    size = next((_size(kind, content) for kind, content, _ in pieces if kind in (b"VP8 ", b"VP8L")), None)
    if size is None:
        raise damaged("WebP", "it has no pixels")
    canvas = size
    if (extended := found.get(b"VP8X")) is not None and len(extended) >= 10:
        canvas = _three_bytes(extended, 4) + 1, _three_bytes(extended, 7) + 1
    if left + size[0] > canvas[0] or top + size[1] > canvas[1] or (b"ANMF" not in found and size != canvas):
        raise damaged("WebP", "its headers contradict each other")
    profile = found.get(b"ICCP", b"")
    return ImageFile(
        "WEBP",
        parts,
        *canvas,
        orientation(*(bytes(found.get(kind, b"")[:LONGEST_TEXT]) for kind in (b"EXIF", b"XMP "))),
        bytes(profile) if 0 < len(profile) <= LONGEST_PROFILE else None,
        left=left,
        top=top,
        animated=sum(kind == b"ANMF" for kind, _, _ in frames) > 1,
    )


def decode(file: ImageFile) -> Image.Image:
    """Return the image as RGBA; raise ImageError if it is damaged.

    Pillow's decoder of animations has four copies of an image at its peak (0.5 GB for 32 megapixels), libwebp's simple one
    two. It is called in the library that Pillow brings along, unless Pillow was built without letting others call it.
    """
    data, decoder = b"".join(file.parts), _decoder()
    if decoder is None:
        return _decoded_by_pillow(file, data)
    pixels = np.zeros((file.height, file.width, 4), np.uint8)
    target = pixels.reshape(-1)[(file.top * file.width + file.left) * 4 :]
    if decoder(data, len(data), target.ctypes.data, target.nbytes, file.width * 4) is None:
        raise _undecodable()
    return Image.frombuffer("RGBA", (file.width, file.height), pixels, "raw", "RGBA", 0, 1)


def _decoded_by_pillow(file: ImageFile, data: bytes) -> Image.Image:
    canvas = Image.new("RGBA", (file.width, file.height), (0, 0, 0, 0))
    width, height = next(size for kind, content, _ in chunks(memoryview(data)) if (size := _size(kind, content)))
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    body = b"WEBP" + struct.pack("<4sIB3x", b"VP8X", 10, _HAS_ALPHA) + sides + data
    try:
        with Image.open(io.BytesIO(struct.pack("<4sI", b"RIFF", len(body)) + body), formats=("WEBP",)) as frame:
            canvas.paste(frame.convert("RGBA"), (file.left, file.top))
    except (OSError, ValueError, EOFError) as error:
        raise _undecodable() from error
    return canvas


def _undecodable() -> ImageError:
    return damaged("WebP", "its pixels cannot be decoded")


@cache
def _decoder() -> Any:
    """Return libwebp's WebPDecodeRGBAInto(data, size, pixels, size, stride), which returns NULL on failure; None without it."""
    decoder = getattr(ctypes.CDLL(_webp.__file__), "WebPDecodeRGBAInto", None)
    if decoder is None:
        return None
    decoder.argtypes = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    decoder.restype = ctypes.c_void_p
    return decoder


def chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Yield each chunk's kind, content and whole; a last one that is cut short, too."""
    start = 0
    for _ in range(_MOST_CHUNKS):
        if start + 8 > len(view):
            return
        kind, size = struct.unpack_from("<4sI", view, start)
        end = start + 8 + size
        yield kind, view[start + 8 : end], view[start : end + size % 2]
        start = end + size % 2


def _three_bytes(view: memoryview, start: int) -> int:
    return int.from_bytes(view[start : start + 3], "little")


def _size(kind: bytes, content: memoryview) -> tuple[int, int] | None:
    if kind == b"VP8 " and len(content) >= 10 and bytes(content[3:6]) == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", content, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(content) >= 5 and content[0] == 0x2F:
        (bits,) = struct.unpack_from("<I", content, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
