"""Parses img2img's body: a form with a file, or JSON with base64."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from server.api.errors import from_validation
from server.api.image_json import read_image_json
from server.api.native.schemas import ATTACHMENTS, Img2Img, Img2ImgJson
from server.errors import ApiError, quoted
from server.security.body import USUAL_BODY

_FIELDS = 30
#: Bytes of a form that are parsed before other requests run.
_SLICE = 2**12


@dataclass(frozen=True)
class Upload:
    """A request's fields, and its files, still encoded, by the name of their field."""

    fields: Mapping[str, Any]
    attachments: Mapping[str, bytes] = field(default_factory=dict)


async def _in_slices(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield the parts in slices; between them other requests run. The parser takes up to 2 us for each byte of junk."""
    async for part in parts:
        for start in range(0, len(part), _SLICE):
            yield part[start : start + _SLICE]
            await asyncio.sleep(0)


async def _parsed_form(request: Request) -> FormData:
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8")
    if charset.lower() != b"utf-8":
        # Python has codecs that take minutes for a megabyte, such as punycode.
        raise ApiError(415, "wrong_type", "the form is not in UTF-8; accepted: multipart/form-data in UTF-8")
    parts = _in_slices(request.stream())
    parser = MultiPartParser(
        request.headers, parts, max_files=len(ATTACHMENTS), max_fields=_FIELDS, max_part_size=USUAL_BODY
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, "invalid_form", f"the form cannot be parsed: {error.message}") from error


async def _read_form(request: Request) -> Upload:
    form = await _parsed_form(request)
    try:
        attachments = {}
        for name in ATTACHMENTS:
            file = form.get(name)
            if isinstance(file, str):
                message = f"{name} is text; it is required as a file: curl -F {name}=@{name}.png"
                raise ApiError(422, "invalid_field", message, field=name)
            if file is None:
                raise ApiError(422, "missing_field", f"{name} is missing; it is required, as a file", field=name)
            attachments[name] = await file.read()
        fields: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name in fields:
                accepted = "once; several seeds in one field, separated by commas"
                message = f"{quoted(name)[1:-1]} is in the form more than once; accepted: {accepted}"
                raise ApiError(422, "repeated_field", message, field=name, accepted=accepted)
            if name not in ATTACHMENTS:
                fields[name] = value
        return Upload(Img2Img.model_validate(fields).model_dump(), attachments)
    finally:
        await form.close()


async def _read_json(request: Request) -> Upload:
    fields = Img2ImgJson.model_validate(await read_image_json(request.stream())).model_dump()
    return Upload(fields, {name: fields.pop(name) for name in ATTACHMENTS})


def media_type(request: Request) -> str:
    """Return the body's media type without parameters, in lower case; empty if the request names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def json_only(request: Request) -> None:
    """Raise ApiError 415 unless the body is JSON; pages of other sites can send other types."""
    kind = media_type(request)
    if kind != "application/json":
        raise ApiError(415, "wrong_type", f"the body is {kind[:80] or 'untyped'}; accepted: application/json")


async def read_upload(request: Request) -> Upload:
    """Parse img2img's body; raise ApiError if something in it is wrong."""
    kind = media_type(request)
    try:
        if kind == "application/json":
            return await _read_json(request)
        if kind == "multipart/form-data":
            return await _read_form(request)
    except ValidationError as error:
        raise from_validation(list(error.errors())) from error
    message = f"the body is {kind[:80] or 'untyped'}; accepted: multipart/form-data, application/json"
    raise ApiError(415, "wrong_type", message)
