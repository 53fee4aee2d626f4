"""Reads JSON that has images as base64 while it arrives: what is not image stays small, and images go into files."""

from __future__ import annotations

import binascii
import json
import secrets
from collections.abc import AsyncIterator
from tempfile import SpooledTemporaryFile
from typing import Any

from fastapi.concurrency import run_in_threadpool

from server.api.errors import not_json
from server.errors import ApiError, quoted
from server.pipeline.limits import LongText, first_repeated
from server.security.body import USUAL_BODY, too_large

#: Bytes of a text that may be longer only if it is an image: above those of the longest prompt, with every character escaped.
_LONGEST_TEXT = 128 * 2**10
#: Bytes of a text that counts as a long one: several small images would not fit into the rest of the body together.
_SHORT_TEXT = 16 * 2**10
#: Images and other long texts of a body: above the attachments and prompts of the largest request.
MOST_IMAGES = 16
_MOST_QUOTES = 10_000
_IN_MEMORY = 2**20
#: What writers of JSON escape in base64: PHP slashes, .NET plus signs too; and line ends.
_ESCAPES = {rb"\/": b"/", rb"\n": b"", rb"\r": b"", rb"\t": b""} | {
    rb"\u00" + code: character
    for codes, character in (((b"2B", b"2b"), b"+"), ((b"2F", b"2f"), b"/"), ((b"3D", b"3d"), b"="))
    for code in codes
}
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_ADDRESSES = (b"http:", b"https:", b"file:", b"ftp:", b"blob:")
#: Bytes of UTF-8 that start no character.
_CONTINUATION = bytes(range(0x80, 0xC0))
_LONGEST_ESCAPE = max(map(len, _ESCAPES))


class Base64:
    """Decodes base64 in pieces into a file; spaces and line ends are ignored, and a ``data:`` URI's head is left out.

    The padding may be missing, and both alphabets of RFC 4648 are read.

    error: why it is not base64; None so far. length: characters of the text.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self.length = 0
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (see close)
        self._escape = self._group = b""
        self._padded = False

    def feed(self, text: bytes) -> None:
        """Decode the next piece of a JSON text; the first has at least the ``data:`` URI's head."""
        if self.length == 0:
            text = self._without_head(text)
        self.length += len(text.translate(None, _CONTINUATION))
        if self.error is not None:
            return
        text = self._escape + text
        # The last characters may be the start of an escape.
        start = text.rfind(b"\\", max(0, len(text) - _LONGEST_ESCAPE))
        self._escape = b"" if start < 0 else text[start:]
        self._decode(text if start < 0 else text[:start])

    def finish(self) -> None:
        """Decode the rest."""
        rest, self._escape = self._escape, b""
        self._decode(rest)
        if len(self._group) == 1 and self.error is None:
            self._fail("it is cut short: a last character is left over")
        elif self._group and self.error is None:
            self._decode(b"=" * (4 - len(self._group)))

    def _without_head(self, text: bytes) -> bytes:
        start = text[:64].lstrip().lower()
        if start.startswith(_ADDRESSES):
            self._fail("this is an address, which the server does not fetch; send the image itself")
        elif start.startswith(b"data:"):
            head, comma, text = text.partition(b",")
            if not comma:
                self._fail("this data: URI has no comma before its base64")
            elif not head.rstrip().lower().endswith(b";base64"):
                self._fail("this data: URI is not in base64; accepted: data:image/png;base64,...")
        return text

    def _decode(self, text: bytes) -> None:
        if b"\\" in text:
            for escape, character in _ESCAPES.items():
                text = text.replace(escape, character)
        text = self._group + text.translate(_URL_SAFE, b" \t\r\n")
        whole = len(text) // 4 * 4
        text, self._group = text[:whole], text[whole:]
        if not text:
            return
        if self._padded:
            self._fail("text after its padding")
            return
        try:
            self._file.write(binascii.a2b_base64(text, strict_mode=True))
        except (binascii.Error, ValueError) as error:
            self._fail("it is percent-encoded" if b"%" in text else str(error).lower())
        self._padded = text.endswith(b"=")

    def _fail(self, error: str) -> None:
        self.error = error
        self.close()

    def read(self) -> bytes:
        """Return what was decoded; raise ValueError if the text was not base64."""
        if self.error is not None:
            raise ValueError(self.error)
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise ApiError for a name that comes twice, of which Python would drop the first."""
    twice = first_repeated(pairs)
    if twice is not None:
        message = f"{quoted(twice)[1:-1]} is in an object of the body more than once; accepted: once"
        raise ApiError(422, "repeated_field", message, field=twice, accepted="once")
    return dict(pairs)


def decode_base64(text: str) -> bytes:
    """Return what a text of base64, or a ``data:`` URI of it, encodes; raise ValueError if it is neither."""
    decoder = Base64()
    try:
        decoder.feed(text.encode("utf-8", "surrogatepass"))
        decoder.finish()
        return decoder.read()
    finally:
        decoder.close()


class EncodedImage(LongText):
    """A text of JSON so long that it can only be an image's base64. ``data`` is None if it is not base64: see ``error``."""

    def __init__(self, decoder: Base64) -> None:
        super().__init__(decoder.length)
        self.error = decoder.error
        self.data = decoder.read() if decoder.error is None else None


class _Reader:
    """Splits JSON into a small document and its long texts, which the document has under names that no client can guess.

    Those that are too long for anything but an image are decoded as they arrive.
    """

    def __init__(self) -> None:
        self._document, self._text = bytearray(), bytearray()
        self._in_text = self._escaped = False
        self._quotes = 0
        self._image: Base64 | None = None
        self._long: dict[str, Base64 | bytes] = {}

    def feed(self, part: bytes) -> None:
        """Read the next part; raise ApiError if what is not image grows too large."""
        pieces = part.split(b'"', _MOST_QUOTES)
        self._quotes += len(pieces) - 1
        if self._quotes >= _MOST_QUOTES:
            raise ApiError(413, "too_large", f"the body has too many texts; accepted: up to {_MOST_QUOTES // 2}")
        self._add(pieces[0])
        for piece in pieces[1:]:
            self._quote()
            self._add(piece)

    def _quote(self) -> None:
        if self._in_text and self._escaped:
            self._add(b'"')
        elif self._in_text:
            self._end_text()
        else:
            self._in_text = True

    def _add(self, piece: bytes) -> None:
        if not piece:
            return
        if not self._in_text:
            self._extend(piece)
            return
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        follows_escape = self._escaped and backslashes == len(piece)
        self._escaped = (backslashes % 2 == 1) != follows_escape
        if self._image is not None:
            self._image.feed(piece)
            return
        self._text += piece
        if len(self._text) > _LONGEST_TEXT:
            start = bytes(self._text)
            self._require_room()
            self._image = Base64()
            self._set_aside(self._image)
            self._image.feed(start)

    def _require_room(self) -> None:
        """Raise ApiError if there are as many long texts as there may be."""
        if len(self._long) == MOST_IMAGES:
            raise ApiError(413, "too_large", f"the body has too many images; accepted: up to {MOST_IMAGES}")

    def _set_aside(self, text: Base64 | bytes) -> None:
        """Keep a long text under a name, which takes its place in the document."""
        name = secrets.token_hex()
        self._long[name] = text
        self._text = bytearray(name.encode())

    def _end_text(self) -> None:
        if self._image is not None:
            self._image.finish()
        elif len(self._text) > _SHORT_TEXT:
            self._require_room()
            self._set_aside(bytes(self._text))
        self._extend(b'"' + self._text + b'"')
        self._text.clear()
        self._image, self._in_text, self._escaped = None, False, False

    def _extend(self, piece: bytes) -> None:
        self._document += piece
        if len(self._document) > USUAL_BODY:
            raise too_large(USUAL_BODY, "the body without its images")

    def result(self) -> Any:
        """Return the document, its long texts as `EncodedImage`; raise ApiError 400 if it is not JSON."""
        try:
            value = json.loads(
                (self._document + b'"' * self._in_text).decode("utf-8-sig"), object_pairs_hook=_named_once
            )
            return self._restored(value) if self._long else value
        except (ValueError, RecursionError) as error:
            raise not_json(error) from error

    def _restored(self, value: Any) -> Any:
        """Return a value of the document with its long texts."""
        if isinstance(value, str) and value in self._long:
            text = self._long[value]
            return EncodedImage(text) if isinstance(text, Base64) else json.loads(b'"' + text + b'"')
        if isinstance(value, list):
            return [self._restored(item) for item in value]
        if isinstance(value, dict):
            return {str(self._restored(name)): self._restored(item) for name, item in value.items()}
        return value

    def close(self) -> None:
        """Delete the files."""
        for text in self._long.values():
            if isinstance(text, Base64):
                text.close()


async def read_image_json(parts: AsyncIterator[bytes]) -> Any:
    """Return the JSON that arrives in parts, with its long texts as `EncodedImage`; raise ApiError if it is refused.

    Works in a thread: decoding 48 MB takes 0.2 s, and the files may be on a slow disk.
    """
    reader = _Reader()
    try:
        async for part in parts:
            await run_in_threadpool(reader.feed, part)
        return await run_in_threadpool(reader.result)
    finally:
        reader.close()
