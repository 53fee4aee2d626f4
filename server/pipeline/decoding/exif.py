"""Reads EXIF (2.32, 4.6): entries of its directories, and the comment that a user, or AUTOMATIC1111, wrote."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MARK = b"Exif\0\0"
#: Tags: the pointer to EXIF's own directory, and UserComment in it.
_DIRECTORY, _USER_COMMENT = 0x8769, 0x9286
#: TIFF's numbers of types whose values are bytes, and of whole numbers.
_BYTES, SHORT, _LONG = (1, 2, 7), 3, 4
#: Entries of a directory; a file that claims to have more is damaged.
_MOST_ENTRIES = 1000
#: Character codes of a comment, eight bytes each.
_ASCII, _UNICODE, _JIS, _UNDEFINED = b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", bytes(8)


@dataclass(frozen=True)
class Tiff:
    """A TIFF structure. ``order`` is struct's character of its byte order."""

    data: memoryview
    order: str

    @classmethod
    def of(cls, exif: bytes | memoryview) -> Tiff | None:
        """Return the structure in EXIF, with or without EXIF's own mark; None for other bytes."""
        data = memoryview(exif)
        while bytes(data[: len(_MARK)]) == _MARK:
            data = data[len(_MARK) :]
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
        return None if order is None or len(data) < 10 else cls(data, order)

    @property
    def first(self) -> int:
        """Where the first directory begins."""
        return self._number("I", 4)

    def entries(self, start: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the entries of the directory at ``start``: tag, type, number of values, and where value or pointer is."""
        if start + 2 > len(self.data):
            return
        count = min(self._number("H", start), _MOST_ENTRIES)
        for offset in range(start + 2, min(start + 2 + 12 * count, len(self.data) - 11), 12):
            tag, kind, number = struct.unpack_from(f"{self.order}HHI", self.data, offset)
            yield tag, kind, number, offset + 8

    def short(self, place: int) -> int:
        """Return the number of two bytes at ``place``."""
        return self._number("H", place)

    def long(self, place: int) -> int:
        """Return the number of four bytes at ``place``."""
        return self._number("I", place)

    def _number(self, kind: str, place: int) -> int:
        (number,) = struct.unpack_from(f"{self.order}{kind}", self.data, place)
        return int(number)


def user_comment(exif: bytes | memoryview) -> memoryview:
    """Return the comment with its character code; empty if there is none.

    It belongs into EXIF's directory; programs that write tags with Pillow put it into the first one.
    """
    tiff = Tiff.of(exif)
    if tiff is None:
        return memoryview(b"")
    starts = [tiff.long(at) for tag, kind, _, at in tiff.entries(tiff.first) if tag == _DIRECTORY and kind == _LONG]
    for start in (*starts, tiff.first):
        for tag, kind, number, place in tiff.entries(start):
            if tag == _USER_COMMENT and kind in _BYTES:
                place = place if number <= 4 else tiff.long(place)
                return tiff.data[place : place + number]
    return memoryview(b"")


def comment_text(comment: bytes) -> str:
    """Return a comment's text; raise ValueError, which says why, if it cannot be read.

    The text in UTF-16 has no mark of its byte order: A1111 writes the high byte first, as piexif does; others write as the
    file's other numbers are. Text has letters below U+0100, whose high byte is 0. Without any zero it is UTF-8, which some
    programs write.
    """
    code, text = comment[:8], comment[8:]
    if code == _JIS:
        raise ValueError("it is in JIS; ASCII and Unicode are read")
    if code == _UNICODE:
        return _utf_16(text)
    return (text if code in (_ASCII, _UNDEFINED) else comment).decode("utf-8", "replace").rstrip("\0")


def _utf_16(text: bytes) -> str:
    if text[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return text.decode("utf-16", "replace").rstrip("\0")
    high, low = text[::2].count(0), text[1::2].count(0)
    if high == low == 0:
        return text.decode("utf-8", "replace")
    return text.decode("utf-16-be" if high >= low else "utf-16-le", "replace").rstrip("\0")
