"""The texts in an image file beside its pixels: PNG's text chunks, comments of JPEG and GIF, EXIF's UserComment."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from server.pipeline.decoding import gif, jpeg, png, webp
from server.pipeline.decoding.exif import comment_text, user_comment

#: Bytes of a text, unpacked, and of all of them: ComfyUI's workflows have up to some hundred thousand.
LONGEST, _MOST = 1 << 20, 1 << 22
_USER_COMMENT, _COMMENT = "UserComment", "comment"

#: A text's name, and a function that returns it if it has at most so many bytes; it raises ValueError, which says why, if it
#: cannot be read.
_Text: TypeAlias = tuple[str, Callable[[int], str]]


@dataclass(frozen=True)
class FileTexts:
    """An image file's texts.

    named: by name: PNG's keywords; ``comment`` in JPEG and GIF. Of several of a name the last counts, as in Pillow.
    user_comment: EXIF's; None if there is none, or only the spaces that cameras leave.
    unread: the texts that are damaged, too long or in an encoding that is not read, by name, with the reason.
    """

    named: dict[str, str]
    user_comment: str | None
    unread: dict[str, str]


def read_texts(data: bytes) -> FileTexts:
    """Return the texts of a PNG, JPEG, WebP or GIF; none for other files. Raise ImageError for a file of too many pieces.

    One that cannot be read does not hide the others.
    """
    named: dict[str, str] = {}
    unread: dict[str, str] = {}
    left = _MOST
    for name, read in _texts(data):
        if left <= 0:
            unread[name] = f"the file has more than {_MOST} bytes of texts"
            continue
        try:
            text = read(min(LONGEST, left))
        except ValueError as error:
            unread[name] = str(error)
        else:
            named[name] = text
            left -= len(text)
    comment = named.pop(_USER_COMMENT, "")
    return FileTexts(named, comment if comment.strip() else None, unread)


def _texts(data: bytes) -> Iterator[_Text]:
    if data.startswith(png.SIGNATURE):
        return _of_png(data)
    if data.startswith(jpeg.SIGNATURE):
        return _of_jpeg(data)
    if webp.is_webp(data):
        pieces = webp.chunks(memoryview(data)[12:])
        return ((_USER_COMMENT, partial(_of_exif, content)) for kind, content, _ in pieces if kind == b"EXIF")
    comments = [*gif.comments(data)] if data.startswith(gif.SIGNATURES) else []
    return iter([(_COMMENT, partial(_comment, b"\n".join(comments)))] if comments else [])


def _of_png(data: bytes) -> Iterator[_Text]:
    for kind, content, whole in png.chunks(data):
        if kind == b"eXIf":
            yield _USER_COMMENT, partial(_of_exif, content)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            # PNG 11.3.3.1: a keyword of up to 79 characters of Latin-1.
            keyword = bytes(content[:80]).partition(b"\0")[0]
            yield keyword.decode("latin-1"), partial(_of_chunk, kind, len(keyword) + 1, content, whole)


def _of_chunk(kind: bytes, start: int, content: memoryview, whole: memoryview, most: int) -> str:
    if len(content) > most + 80:
        raise ValueError(f"it has {len(content)} bytes; up to {most} are read")
    if zlib.crc32(whole[4:-4]) != int.from_bytes(whole[-4:], "big"):
        raise ValueError("it is damaged or cut short")
    text = png.chunk_text(kind, bytes(content[start:]), most)
    if text is None:
        raise ValueError(f"what it was packed to is damaged, or of more than {most} bytes")
    if kind != b"iTXt":
        try:
            # Against the standard, programs such as StabilityMatrix write UTF-8 here; Latin-1 in words is hardly ever that, too.
            return text.decode()
        except UnicodeDecodeError:
            return text.decode("latin-1")
    return text.decode()


def _of_jpeg(data: bytes) -> Iterator[_Text]:
    for marker, content, _ in jpeg.segments(data):
        if (marker, bytes(content[: len(jpeg.EXIF[1])])) == jpeg.EXIF:
            yield _USER_COMMENT, partial(_of_exif, content)
        elif marker == jpeg.COMMENT:
            yield _COMMENT, partial(_comment, bytes(content))


def _of_exif(exif: memoryview, most: int) -> str:
    comment = user_comment(exif)
    if len(comment) > 2 * most:
        raise ValueError(f"it has {len(comment)} bytes; up to {2 * most} are read")
    return comment_text(bytes(comment))


def _comment(text: bytes, most: int) -> str:
    if len(text) > most:
        raise ValueError(f"it has {len(text)} bytes; up to {most} are read")
    return text.decode("utf-8", "ignore")
