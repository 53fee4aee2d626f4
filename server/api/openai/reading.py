"""Reads the bodies of OpenAI's calls: JSON with images as base64, or forms with files."""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request

from server.api.body import Body
from server.api.forms import SentFile, form_items, media_type, wrong_type
from server.api.image_json import EncodedImage, read_image_json
from server.api.upload import form_fields
from server.errors import ApiError, quoted
from server.pipeline.request import RequestError

#: The names under which a form has images: one, or several as clients number them.
_IMAGE_NAME = re.compile(r"images?(\[\d*\])?")
#: Images of a request, as in OpenAI's API.
MOST_IMAGES = 16


def _image(value: Any, field: str) -> Any:
    """Return an image of JSON as base64 or a data: URI; raise RequestError for a file's id and for what is neither."""
    if isinstance(value, dict):
        address = value.get("image_url")
        if isinstance(address, dict):
            address = address.get("url")
        if address is None:
            files = "the server keeps no files" if "file_id" in value else "it has no image_url"
            raise RequestError(field, value, f'{{"image_url": "data:image/png;base64,..."}} ({files})')
        value = address
    if not isinstance(value, str | EncodedImage):
        raise RequestError(field, value, 'base64 of an image, or {"image_url": "data:image/png;base64,..."}')
    return value


def _of_json(body: Any) -> dict[str, Any]:
    """Return the fields of a JSON body, its images as a list under ``image``."""
    if not isinstance(body, dict):
        raise ApiError(422, "invalid_field", f"body is {quoted(body)}; accepted: a JSON object", field="body")
    values = dict(body)
    images = values.pop("images", None)
    single = values.pop("image", None)
    if images is not None and single is not None:
        raise RequestError("image", single, "image or images, not both")
    name, found = ("images", images) if single is None else ("image", single)
    if found is not None:
        listed = found if isinstance(found, list) else [found]
        values["image"] = [
            _image(each, f"{name}.{i}" if isinstance(found, list) else name) for i, each in enumerate(listed)
        ]
    if values.get("mask") is not None:
        values["mask"] = _image(values["mask"], "mask")
    return values


async def _of_form(request: Request, body: Body) -> dict[str, Any]:
    """Return the fields of a form, its images as a list under ``image``."""
    values: dict[str, Any] = {}
    images: list[tuple[str, SentFile]] = []
    for name, value in await form_items(request):
        if value is None:
            continue
        if _IMAGE_NAME.fullmatch(name):
            if isinstance(value, SentFile):
                images.append((name, value))
                continue
            if value:
                raise RequestError("image", value, "a file: curl -F image=@image.png")
        name = "mask" if name == "mask[]" else name
        if name in values:
            message = f"{quoted(name)[1:-1]} is in the form more than once; accepted: once"
            raise ApiError(422, "repeated_field", message, field=name, accepted="once")
        values[name] = value
    # A list such as controls may name an image, too; one that the call itself does not take is then the list's alone.
    by_name = dict(images)
    fields = form_fields({**values, **by_name}, body)
    left = [file for name, file in images if name in fields]
    rest = {name: value for name, value in fields.items() if name not in by_name}
    return {**rest, "image": left} if left else rest


async def read_values(request: Request, body: Body) -> dict[str, Any]:
    """Return a body's fields by the client's names; images are a list under ``image``, not yet decoded.

    Raises ApiError if the body cannot be read, RequestError if an image is not accepted.
    """
    kind = media_type(request)
    if kind == "application/json":
        values = _of_json(await read_image_json(request.stream()))
    elif kind == "multipart/form-data":
        values = await _of_form(request, body)
    else:
        raise wrong_type(kind, "application/json, multipart/form-data")
    if len(values.get("image") or ()) > MOST_IMAGES:
        raise RequestError("image", f"{len(values['image'])} images", f"up to {MOST_IMAGES}")
    return values
