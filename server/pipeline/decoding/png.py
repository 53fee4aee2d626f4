"""Takes PNG files apart (PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from server.pipeline.decoding.file import LONGEST_PROFILE, LONGEST_TEXT, ImageFile, Parts, damaged
from server.pipeline.decoding.orientation import of_raw_profile, orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE = 0, 2, 3
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp", (b"Raw profile type exif", b"Raw profile type APP1")
#: A file of 32 megapixels in chunks of 2 kB has 62,000; walking through a million takes half a second.
_MOST_CHUNKS = 100_000


def take_apart(data: bytes) -> ImageFile:
    """Return the image without the chunks that its pixels do not need; raise ImageError if there is no header.

    Pillow unpacks and parses all chunks, and refuses a file for a long text (ComfyUI's workflows) or a broken profile.
    """
    parts, header, metadata = _sort(data)
    if header is None:
        raise damaged("PNG", "its header is missing or incomplete")
    width, height, depth, color_type = struct.unpack_from(">IIBB", header)
    return ImageFile(
        "PNG",
        parts,
        width,
        height,
        orientation(metadata.get(b"eXIf", metadata.get(b"raw", b"")), metadata.get(b"xmp", b"")),
        _unpacked(metadata.get(b"iCCP", b"").partition(b"\0")[2][1:], LONGEST_PROFILE),
        _transparent(metadata.get(b"tRNS", b""), depth, color_type),
        animated=metadata.get(b"acTL", b"") > struct.pack(">I", 1),
    )


def chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Yield each chunk's kind, content and whole; a last one that is cut short, too. Raise ImageError for too many."""
    view, start = memoryview(data), len(SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        if start + 8 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + size
        yield kind, view[start + 8 : end - 4], view[start:end]
        start = end
    raise damaged("PNG", f"it has more than {_MOST_CHUNKS} chunks")


def _sort(data: bytes) -> tuple[Parts, bytes | None, dict[bytes, bytes]]:
    """Return the parts that the pixels need, the header's content, and metadata by the names used above."""
    parts: list[memoryview | bytes] = [memoryview(data)[: len(SIGNATURE)]]
    header: bytes | None = None
    metadata: dict[bytes, bytes] = {}
    for kind, content, whole in chunks(data):
        size = len(whole) - 12
        if kind == b"IHDR":
            # One header, and first, so that the size checked here is the size decoded.
            if header is None and size == 13 == len(content):
                header = bytes(content)
                parts.append(whole)
        elif kind == b"tRNS":
            metadata.setdefault(kind, bytes(content[:768]))
            if header is not None and header[9] == _PALETTE:
                parts.append(whole)
        elif kind == b"acTL":
            metadata.setdefault(kind, bytes(content[:4]))  # the number of frames
        elif kind in (b"eXIf", b"iCCP"):
            if size <= LONGEST_PROFILE:
                metadata.setdefault(kind, bytes(content))
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            _keep_text(kind, bytes(content[:LONGEST_TEXT]), metadata)
        elif not (kind.isalpha() and kind[:1].islower()):
            parts.append(whole)
    return tuple(parts), header, metadata


def _keep_text(kind: bytes, content: bytes, metadata: dict[bytes, bytes]) -> None:
    """Keep a text if it is EXIF or XMP."""
    keyword, _, text = content.partition(b"\0")
    if keyword == _XMP and kind == b"iTXt":
        metadata.setdefault(b"xmp", chunk_text(kind, text, LONGEST_TEXT) or b"")
    elif keyword in _RAW_EXIF and kind != b"iTXt":
        exif = of_raw_profile(chunk_text(kind, text, 2 * LONGEST_TEXT) or b"")
        if exif is not None:
            metadata.setdefault(b"raw", exif)


def chunk_text(kind: bytes, text: bytes, most: int) -> bytes | None:
    """Return what follows the keyword of a tEXt, zTXt or iTXt, unpacked; None if it is packed and `_unpacked` is None."""
    packed = kind == b"zTXt"
    if packed:
        text = text[1:]
    elif kind == b"iTXt":
        # Two bytes for compression, then language and translated keyword, each ended by a zero.
        packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    return _unpacked(text, most) if packed else text


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """Return what zlib packed; None if it is empty, damaged or longer than ``most`` bytes."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, most)
    except zlib.error:
        return None
    return content if unpacker.eof and content else None


def _transparent(content: bytes, depth: int, color_type: int) -> int | tuple[int, int, int] | None:
    """Return the transparent gray value or color at the depth that Pillow decodes to: 16 bits of gray as they are, else 8.

    Pillow compares it at the file's depth, so that none matches with 2, 4 or 16 bits.
    """
    if depth not in (1, 2, 4, 8, 16):
        return None
    if color_type == _GRAY and len(content) >= 2:
        (gray,) = struct.unpack_from(">H", content)
        return int(gray) if depth == 16 else int(gray & (1 << depth) - 1) * 255 // ((1 << depth) - 1)
    if color_type == _RGB and len(content) >= 6:
        red, green, blue = (value >> 8 if depth == 16 else value & 255 for value in struct.unpack_from(">3H", content))
        return red, green, blue
    return None
