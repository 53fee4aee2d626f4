"""Takes JPEG files apart (ITU-T T.81, and Adobe's and ICC's conventions for its application segments)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from server.pipeline.decoding.file import LONGEST_PROFILE, ImageError, ImageFile, damaged
from server.pipeline.decoding.orientation import orientation

SIGNATURE = b"\xff\xd8\xff"
_SOS, COMMENT = 0xDA, 0xFE
#: Frames whose coefficients come in parts (SOF2, 6, 10 and 14), even if only one part is there.
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
#: Frame headers: SOF0 to SOF15 without DHT, JPG and DAC, which lie between them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: TEM, RST0 to RST7 and SOI, which have no content.
_EMPTY = frozenset({0x01, *range(0xD0, 0xD9)})
_APPLICATION = range(0xE0, 0xF0)
_JFIF, _ADOBE = (0xE0, b"JFIF"), (0xEE, b"Adobe")
EXIF, _XMP, _ICC = (0xE1, b"Exif\0\0"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0"), (0xE2, b"ICC_PROFILE\0")
#: Encoders write up to 14. A scan without content takes its time for every block: an image of thousands would take hours.
_MOST_SCANS = 50
_MOST_SEGMENTS = 10_000


def segments(data: bytes) -> Iterator[tuple[int, memoryview, int]]:
    """Yield each segment's marker, content and beginning, up to that of the first scan. Raise ImageError for too many."""
    view, start = memoryview(data), 2
    for _ in range(_MOST_SEGMENTS):
        start = data.find(b"\xff", start)
        if start < 0 or start + 4 > len(data):
            return
        marker = data[start + 1]
        if marker in (0x00, 0xFF):
            start += 1
        elif marker in _EMPTY:
            start += 2
        else:
            end = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
            yield marker, view[start + 4 : end], start
            if marker == _SOS:
                return
            start = end
    raise damaged("JPEG", f"it has more than {_MOST_SEGMENTS} segments")


def take_apart(data: bytes) -> ImageFile:
    """Return the image without the segments that its pixels do not need; raise ImageError if a header is missing.

    Pillow parses EXIF as it opens a file, to find a resolution, and raises many kinds of errors (#8348, #8605).
    """
    view = memoryview(data)
    parts = [view[:2]]
    frame: memoryview | None = None
    progressive = False
    exif, xmp = b"", b""
    profile: dict[int, memoryview] = {}
    start: int | None = None
    for marker, content, begin in segments(data):
        if marker == _SOS:
            start = begin
            break

        def is_a(sort: tuple[int, bytes], marker: int = marker, content: memoryview = content) -> bool:
            return marker == sort[0] and bytes(content[: len(sort[1])]) == sort[1]

        if marker in _FRAMES:
            frame, progressive = frame or content, progressive or marker in _PROGRESSIVE
        if is_a(EXIF):
            exif = exif or bytes(content)
        elif is_a(_XMP):
            xmp = xmp or bytes(content)
        elif is_a(_ICC) and len(content) > 14:
            profile[content[12]] = content[14:]
        if is_a(_JFIF) or is_a(_ADOBE) or (marker not in _APPLICATION and marker != COMMENT):
            parts.append(view[begin : begin + 4 + len(content)])
    if start is None:
        raise damaged("JPEG", "it ends before its pixels")
    if frame is None or len(frame) < 6:
        raise damaged("JPEG", "its frame header is missing or incomplete")
    depth, height, width = struct.unpack_from(">BHH", frame)
    if depth != 8:
        raise ImageError(f"this JPEG image has {depth} bits a channel", "8")
    scans = data.count(bytes((0xFF, _SOS)), start)
    if scans > _MOST_SCANS:
        raise ImageError(f"this JPEG image has {scans} scans", f"up to {_MOST_SCANS}")
    # libjpeg keeps the coefficients of all pixels unless the first scan completes them.
    keeps = progressive or data[start + 4 : start + 5] != frame[5:6]
    colors = b"".join(profile[number] for number in sorted(profile))
    return ImageFile(
        "JPEG",
        (*parts, view[start:]),
        width,
        height,
        orientation(exif, xmp),
        colors if 0 < len(colors) <= LONGEST_PROFILE else None,
        coefficients=_coefficients(frame, width * height) if keeps else 0,
    )


def _coefficients(frame: memoryview, pixels: int) -> int:
    """Return the bytes of all coefficients, of two bytes each: those of a component that is sampled less often are fewer."""
    factors = [(byte >> 4) * (byte & 15) for byte in frame[7::3]]
    return 2 * pixels * sum(factors) // max([1, *factors])
