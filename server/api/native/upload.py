"""Parses bodies with images: forms with files, or JSON with base64."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from server.api.errors import from_validation
from server.api.image_json import MOST_IMAGES, read_image_json
from server.api.native.body import Body, SentFile
from server.errors import ApiError, quoted
from server.pipeline.fields import RequestField, without_attachments
from server.pipeline.limits import Items
from server.security.body import USUAL_BODY

#: Fields that a form may have; there are half as many in the request with the most.
_FIELDS = 100
#: Bytes of a form that are parsed before other requests run.
_SLICE = 2**12


@dataclass(frozen=True)
class Upload:
    """A request's fields without its own attachments, and all attachments, still encoded, by name (see `without_attachments`)."""

    fields: Mapping[str, Any]
    attachments: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


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


async def _parsed_form(request: Request) -> FormData:
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


def _named_files(field: RequestField, text: str, files: Mapping[str, SentFile], used: set[str]) -> Any:
    """Return the list in a form's text with the files that it names; raise ApiError where it names none.

    What is no such list is left to the field's validation.
    """
    try:
        items = Items.parsed(text)
    except ValueError:
        items = text
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        used.update(files)  # the list is wrong, and not a file that it does not name
        return items
    attachments = [inner.name for inner in field.item_fields if inner.is_attachment]
    for (number, item), attachment in product(enumerate(items), attachments):
        name, place = item.get(attachment), f"{field.name}.{number}.{attachment}"
        if not isinstance(name, str) or name not in files:
            accepted = f"the name of a file of this form; it has {', '.join(files) or 'none'}"
            is_there = attachment in item
            message = f"{place} is {quoted(name) if is_there else 'missing'}; accepted: {accepted}"
            code = "invalid_field" if is_there else "missing_field"
            raise ApiError(422, code, message, field=place, value=name, accepted=accepted)
        item[attachment] = files[name]
        used.add(name)
    return items


async def _form_values(form: FormData) -> dict[str, str | SentFile]:
    """Return a form's texts and files by name; raise ApiError if one comes twice."""
    values: dict[str, str | SentFile] = {}
    for name, value in form.multi_items():
        if name in values:
            accepted = "once; several seeds in one field, separated by commas"
            message = f"{quoted(name)[1:-1]} is in the form more than once; accepted: {accepted}"
            raise ApiError(422, "repeated_field", message, field=name, accepted=accepted)
        if isinstance(value, str):
            values[name] = value
        elif value.filename or value.size:  # a page sends an empty file for a field in which none was chosen
            values[name] = SentFile(await value.read())
    return values


async def _read_form(request: Request, body: Body) -> dict[str, Any]:
    form = await _parsed_form(request)
    try:
        sent = await _form_values(form)
    finally:
        await form.close()
    files = {name: value for name, value in sent.items() if isinstance(value, SentFile)}
    used: set[str] = set()
    values: dict[str, Any] = dict(sent)
    for field in body.fields:
        value = values.get(field.name)
        if isinstance(value, SentFile) and field.item is not None:
            accepted = f"text: curl -F {field.name}='<{field.name}.json'"
            message = f"{field.name} is {value!r}; accepted: {accepted}"
            raise ApiError(422, "invalid_field", message, field=field.name, accepted=accepted)
        if not isinstance(value, str):
            continue
        if field.is_attachment:
            message = f"{field.name} is text; it is accepted as a file: curl -F {field.name}=@{field.name}.png"
            raise ApiError(422, "invalid_field", message, field=field.name)
        if field.item is not None:
            values[field.name] = _named_files(field, value, files, used)
    return {name: value for name, value in values.items() if name not in used or name in body.model.model_fields}


def media_type(request: Request) -> str:
    """Return the body's media type without parameters, in lower case; empty if the request names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def json_only(request: Request) -> None:
    """Raise ApiError 415 unless the body is JSON; pages of other sites can send other types."""
    kind = media_type(request)
    if kind != "application/json":
        raise ApiError(415, "wrong_type", f"the body is {kind[:80] or 'untyped'}; accepted: application/json")


async def read_upload(request: Request, body: Body) -> Upload:
    """Parse a request's body; raise ApiError if something in it is wrong."""
    kind = media_type(request)
    if kind not in ("application/json", "multipart/form-data"):
        message = f"the body is {kind[:80] or 'untyped'}; accepted: multipart/form-data, application/json"
        raise ApiError(415, "wrong_type", message)
    try:
        if kind == "application/json":
            sent = await read_image_json(request.stream())
        else:
            sent = await _read_form(request, body)
        fields = body.model.model_validate(sent).model_dump()
    except ValidationError as error:
        raise from_validation(list(error.errors())) from error
    values, attachments = without_attachments(body.fields, fields)
    return Upload({name: value for name, value in values.items() if name not in body.attachments}, attachments)
