"""Images of earlier jobs by their addresses: a language model can repeat one, but no base64 of a whole image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from server.api.errors import require
from server.api.forms import SentFile
from server.api.native import PREFIX
from server.api.service import Service
from server.pipeline.fields import RequestField

#: What a schema says of it.
ABOUT = "or the address of an image that a tool made here"
_IMAGE = re.compile(rf"{re.escape(PREFIX)}/jobs/([^/]+)/images/(\d{{1,3}})")


async def with_addressed(
    fields: Iterable[RequestField], arguments: Mapping[str, Any], service: Service, base_url: str
) -> dict[str, Any]:
    """Return arguments with the images in place of their addresses, with or without ``base_url``.

    Raises ApiError for an image that does not exist. What is no such address is left to the field's validation.
    """
    found = dict(arguments)
    for field in fields:
        value = arguments.get(field.name)
        if field.is_attachment and isinstance(value, str):
            address = _IMAGE.fullmatch(value[:1000].removeprefix(base_url))
            if address is not None:
                found[field.name] = await _image(service, address[1], int(address[2]))
        elif field.item is not None and isinstance(value, list):
            found[field.name] = [
                await with_addressed(field.item_fields, item, service, base_url) if isinstance(item, dict) else item
                for item in value
            ]
    return found


async def _image(service: Service, job_id: str, index: int) -> SentFile:
    job = require(service.job(job_id))
    return SentFile(require(await service.image(job, require(service.stored_image(job, index)))))
