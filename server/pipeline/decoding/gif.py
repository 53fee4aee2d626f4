"""Takes GIF files apart (GIF89a): the first frame with its palette and transparency."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from server.pipeline.decoding.file import ImageFile, damaged

SIGNATURES = (b"GIF87a", b"GIF89a")
_EXTENSION, _FRAME, _END = 0x21, 0x2C, 0x3B
#: The extensions that say which color is transparent, and that have a text.
_GRAPHIC_CONTROL, _COMMENT = 0xF9, 0xFE
_MOST_BLOCKS = 10_000


def take_apart(data: bytes) -> ImageFile:
    """Return the first frame on its canvas; raise ImageError if there is none, or if it reaches beyond the canvas."""
    view = memoryview(data)
    if len(data) < 13:
        raise damaged("GIF", "its header is incomplete")
    width, height, packed = struct.unpack_from("<HHB", data, 6)
    start = 13 + _palette_bytes(packed)
    head, control = view[:start], view[:0]
    for _ in range(_MOST_BLOCKS):
        kind = data[start] if start < len(data) else _END
        if kind == _EXTENSION:
            end = _after_blocks(data, start + 2)
            if data[start + 1 : start + 2] == bytes([_GRAPHIC_CONTROL]):
                control = view[start:end]
            start = end
        elif kind == _FRAME and start + 11 <= len(data):
            left, top, across, down, packed = struct.unpack_from("<4HB", data, start + 1)
            if left + across > width or top + down > height:
                raise damaged("GIF", "its first frame reaches beyond the image")
            end = _after_blocks(data, start + 11 + _palette_bytes(packed))
            parts = (head, control, view[start:end], bytes([_END]))
            return ImageFile("GIF", parts, width, height, animated=_has_frame(data, end))
        else:
            break
    raise damaged("GIF", "it has no image")


def comments(data: bytes) -> Iterator[bytes]:
    """Yield the comments before the first frame."""
    start = 13 + _palette_bytes(data[10]) if len(data) >= 13 else len(data)
    for _ in range(_MOST_BLOCKS):
        if data[start : start + 1] != bytes([_EXTENSION]):
            return
        end = _after_blocks(data, start + 2)
        if data[start + 1 : start + 2] == bytes([_COMMENT]):
            yield b"".join(_blocks(data, start + 2, end))
        start = end


def _blocks(data: bytes, start: int, end: int) -> Iterator[bytes]:
    """Yield the content of the blocks of a chain."""
    while start < end and data[start]:
        yield data[start + 1 : start + 1 + data[start]]
        start += 1 + data[start]


def _has_frame(data: bytes, start: int) -> bool:
    """Return whether a frame begins after the extensions that begin here."""
    for _ in range(_MOST_BLOCKS):
        if data[start : start + 1] != bytes([_EXTENSION]):
            break
        start = _after_blocks(data, start + 2)
    return data[start : start + 1] == bytes([_FRAME])


def _palette_bytes(packed: int) -> int:
    """Return the bytes of the palette that follows a descriptor with these flags."""
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _after_blocks(data: bytes, start: int) -> int:
    """Return where a chain of blocks ends, each of which begins with its length, and whose last one has none."""
    while start < len(data) and data[start]:
        start += 1 + data[start]
    return min(start + 1, len(data))
