"""Reads an image's orientation from its EXIF or XMP."""

from __future__ import annotations

import binascii
import re
import struct

_EXIF = b"Exif\0\0"
_ORIENTATION_TAG, _SHORT = 0x112, 3
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
    while exif.startswith(_EXIF):
        exif = exif.removeprefix(_EXIF)
    byte_order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if byte_order is None or len(exif) < 10:
        return None
    (start,) = struct.unpack_from(f"{byte_order}I", exif, 4)
    if start + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(f"{byte_order}H", exif, start)
    for offset in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, number, value = struct.unpack_from(f"{byte_order}HHIH", exif, offset)
        if (tag, kind, number) == (_ORIENTATION_TAG, _SHORT, 1):
            return value if 1 <= value <= 8 else None
    return None
