"""Parses img2img's body: a form with a file, or JSON with base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from server.api.errors import from_validation
from server.api.native.schemas import ATTACHMENTS, Img2Img, Img2ImgJson
from server.errors import ApiError
from server.pipeline.request import RequestError

_FIELDS = 30


@dataclass(frozen=True)
class Upload:
    """A request's fields, and its files, still encoded, by the name of their field."""

    fields: Mapping[str, Any]
    attachments: Mapping[str, bytes] = field(default_factory=dict)


def _decode_base64(name: str, text: str) -> bytes:
    data = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(name, text[:40], f"base64 of a PNG, JPEG or WebP image ({error})") from error


async def _read_form(request: Request) -> Upload:
    try:
        async with request.form(max_files=len(ATTACHMENTS), max_fields=_FIELDS) as form:
            attachments = {}
            for name in ATTACHMENTS:
                file = form.get(name)
                if not isinstance(file, UploadFile):
                    raise ApiError(422, "missing_field", f"{name} is missing; it is required, as a file", field=name)
                attachments[name] = await file.read()
            fields = {key: value for key, value in form.items() if key not in ATTACHMENTS}
            return Upload(Img2Img.model_validate(fields).model_dump(), attachments)
    except (MultiPartException, HTTPException) as error:
        reason = error.message if isinstance(error, MultiPartException) else error.detail
        raise ApiError(400, "invalid_form", f"the form cannot be parsed: {reason}") from error


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
            body = Img2ImgJson.model_validate_json(await request.body())
            fields = body.model_dump()
            attachments = {name: _decode_base64(name, fields.pop(name)) for name in ATTACHMENTS}
            return Upload(fields, attachments)
        if kind == "multipart/form-data":
            return await _read_form(request)
    except ValidationError as error:
        raise from_validation(list(error.errors())) from error
    message = f"the body is {kind or 'untyped'}; accepted: multipart/form-data, application/json"
    raise ApiError(415, "wrong_type", message)
