"""Reads an image's orientation from its EXIF or XMP."""

from __future__ import annotations

import binascii
import re

from server.pipeline.decoding.exif import SHORT, Tiff

_ORIENTATION_TAG = 0x112
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])\s*[\"'<]")


def orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation (EXIF's tag 274), 1 to 8; 1 if nothing readable says another.

    It is read only from the first directory of the TIFF structure (EXIF 2.32, 4.6): Pillow's own reader raises many kinds
    of errors for entries that are not needed (#8348, #8605).
    """
    if (of_tiff := _of_tiff(exif)) is not None:
        return of_tiff
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else 1


def of_raw_profile(text: bytes) -> bytes | None:
    """Return the EXIF in ImageMagick's text chunk: a name, its length in bytes, and hexadecimal digits, each on lines of its own."""
    words = text.split()
    try:
        return binascii.unhexlify(b"".join(words[2:]))
    except binascii.Error:
        return None


def _of_tiff(exif: bytes) -> int | None:
    tiff = Tiff.of(exif)
    if tiff is None:
        return None
    for tag, kind, number, place in tiff.entries(tiff.first):
        if (tag, kind, number) == (_ORIENTATION_TAG, SHORT, 1):
            value = tiff.short(place)
            return value if 1 <= value <= 8 else None
    return None
