"""Parses bodies with images: forms with files, or JSON with base64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from server.api.body import Body
from server.api.errors import from_validation
from server.api.forms import SentFile, form_items, media_type, wrong_type
from server.api.image_json import read_image_json
from server.errors import ApiError, quoted
from server.pipeline.fields import RequestField, without_attachments
from server.pipeline.limits import Items


@dataclass(frozen=True)
class Upload:
    """A request's fields without its own attachments, and all attachments, still encoded, by name (see `without_attachments`)."""

    fields: Mapping[str, Any]
    attachments: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


def _named_files(field: RequestField, text: str, files: Mapping[str, SentFile], used: set[str]) -> Any:
    """Return the list in a form's text with the files that it names; raise ApiError for a name without a file.

    Another value is left to the field's validation.
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


def _by_name(items: Iterable[tuple[str, str | SentFile | None]]) -> dict[str, str | SentFile]:
    """Return a form's texts and files by name; raise ApiError if one comes twice."""
    values: dict[str, str | SentFile] = {}
    for name, value in items:
        if name in values:
            accepted = "once; several seeds in one field, separated by commas"
            message = f"{quoted(name)[1:-1]} is in the form more than once; accepted: {accepted}"
            raise ApiError(422, "repeated_field", message, field=name, accepted=accepted)
        if value is not None:
            values[name] = value
    return values


def form_fields(sent: Mapping[str, str | SentFile], body: Body) -> dict[str, Any]:
    """Return a form's fields for the body: lists with the files that they name; raise ApiError for one that is wrong.

    What has no field of the body is returned too, except for the files that lists name.
    """
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


def checked(values: Any, body: Body) -> Upload:
    """Return the upload of a body's values, of JSON or of a form; raise ApiError for the first that is wrong."""
    try:
        fields = body.model.model_validate(values).model_dump()
    except ValidationError as error:
        raise from_validation(list(error.errors())) from error
    named, attachments = without_attachments(body.fields, fields)
    return Upload({name: value for name, value in named.items() if name not in body.attachments}, attachments)


async def read_upload(request: Request, body: Body) -> Upload:
    """Parse a request's body; raise ApiError if something in it is wrong."""
    kind = media_type(request)
    if kind == "application/json":
        return checked(await read_image_json(request.stream()), body)
    if kind != "multipart/form-data":
        raise wrong_type(kind, "multipart/form-data, application/json")
    return checked(form_fields(_by_name(await form_items(request)), body), body)
