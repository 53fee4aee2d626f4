"""Bodies with files: parses forms, and gives an image's bytes however it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.api.image_json import MOST_IMAGES, EncodedImage, decode_base64
from server.errors import ApiError
from server.pipeline.decoding.file import READABLE
from server.security.body import USUAL_BODY

#: Fields that a form may have; there are half as many in the request with the most.
_FIELDS = 100
#: Bytes of a form that are parsed before other requests run.
_SLICE = 2**12


class SentFile:
    """A file of a form; errors tell its length in place of its content."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"a file of {len(self.data)} bytes"


def image_bytes(value: Any) -> bytes:
    """Return the file that a form's file or a JSON text is; raise ValueError, which says what is accepted, if it is neither."""
    if isinstance(value, SentFile):
        return value.data
    try:
        if isinstance(value, str):
            return decode_base64(value)
        if isinstance(value, EncodedImage) and value.data is not None:
            return value.data
        error = value.error if isinstance(value, EncodedImage) else "it is not a text"
    except ValueError as invalid:
        error = str(invalid)
    raise ValueError(f"base64 of a {READABLE} image ({error})")


async def _in_slices(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield the parts in slices; between them other requests run. The parser takes up to 2 us for each byte of junk."""
    async for part in parts:
        for start in range(0, len(part), _SLICE):
            yield part[start : start + _SLICE]
            await asyncio.sleep(0)


class _Parser(MultiPartParser):
    """Knows whether the form was complete; Starlette's drops the part in which a form breaks off."""

    has_ended = False

    def on_end(self) -> None:
        """Note that the form's last boundary was read."""
        self.has_ended = True


async def _parsed(request: Request) -> FormData:
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8")
    if charset.lower() != b"utf-8":
        # Python has codecs that take minutes for a megabyte, such as punycode.
        raise ApiError(415, "wrong_type", "the form is not in UTF-8; accepted: multipart/form-data in UTF-8")
    parts = _in_slices(request.stream())
    parser = _Parser(request.headers, parts, max_files=MOST_IMAGES, max_fields=_FIELDS, max_part_size=USUAL_BODY)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, "invalid_form", f"the form cannot be parsed: {error.message}") from error
    if not parser.has_ended:
        await form.close()
        raise ApiError(400, "invalid_form", "the form is cut short: it ends without its last boundary")
    return form


async def form_items(request: Request) -> list[tuple[str, str | SentFile | None]]:
    """Return the names and values of a request's form, in its order; raise ApiError if it cannot be parsed or is cut short.

    A file without name and content is None: a page sends one for a field in which none was chosen.
    """
    form = await _parsed(request)
    try:
        return [(name, await _value(value)) for name, value in form.multi_items()]
    finally:
        await form.close()


async def _value(value: str | UploadFile) -> str | SentFile | None:
    if isinstance(value, str):
        return value
    return SentFile(await value.read()) if value.filename or value.size else None


def media_type(request: Request) -> str:
    """Return the body's media type without parameters, in lower case; empty if the request names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def wrong_type(kind: str, accepted: str) -> ApiError:
    """Return the error for a body of another media type than those accepted."""
    return ApiError(415, "wrong_type", f"the body is {kind[:80] or 'untyped'}; accepted: {accepted}")


async def json_only(request: Request) -> None:
    """Raise ApiError 415 unless the body is JSON; pages of other sites can send other types."""
    kind = media_type(request)
    if kind != "application/json":
        raise wrong_type(kind, "application/json")
