"""Reads an image's parameters as AUTOMATIC1111 does (modules/images.py, read_info_from_image), without piexif."""

from __future__ import annotations

import io
import struct

from PIL import Image

_EXIF_DIRECTORY, _USER_COMMENT = 0x8769, 0x9286
_UNDEFINED = 7


def _entries(tiff: bytes, start: int) -> dict[int, tuple[int, int, int]]:
    """Return the directory at ``start`` of big-endian TIFF: tag -> type, count, value."""
    (count,) = struct.unpack_from(">H", tiff, start)
    fields = [struct.unpack_from(">HHII", tiff, start + 2 + 12 * i) for i in range(count)]
    return {tag: (kind, number, value) for tag, kind, number, value in fields}


def user_comment(exif: bytes) -> str:
    """Return EXIF's UserComment, as piexif.helper.UserComment.load decodes it."""
    assert exif[:10] == b"Exif\0\0MM\0*", exif[:10]
    tiff = exif[6:]
    _, _, second = _entries(tiff, struct.unpack_from(">I", tiff, 4)[0])[_EXIF_DIRECTORY]
    kind, count, place = _entries(tiff, second)[_USER_COMMENT]
    assert kind == _UNDEFINED
    comment = tiff[place : place + count]
    assert len(comment) == count
    assert comment[:8] == b"UNICODE\0"
    return comment[8:].decode("utf-16-be")


def read_parameters(data: bytes) -> str | None:
    """Return the parameters of a PNG, JPEG or WebP."""
    with Image.open(io.BytesIO(data)) as image:
        exif = image.info.get("exif")
        if exif is None:
            return image.info.get("parameters")
    return user_comment(exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif)
