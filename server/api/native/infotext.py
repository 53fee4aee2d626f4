"""The native API's reading of images: the request that made one, from the text that it carries."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from server.api.body import Body
from server.api.dependencies import Generation, Memory, Models
from server.api.errors import require
from server.api.native import PREFIX
from server.api.native.errors import BAD_BODY
from server.api.refusal import bad_image
from server.api.service import IMAGE
from server.api.upload import read_upload
from server.errors import encodable
from server.models.installed import InstalledModels, UnknownModel
from server.pipeline.decoding.file import ImageError
from server.pipeline.fields import Attachment, Part, fields_of
from server.pipeline.images import read_image
from server.pipeline.infotext import RequestFields, find_addons, find_infotext, read_infotext, read_request_fields
from server.pipeline.infotext.writing import SHORT_HASH
from server.pipeline.request import KnownAddons

router = APIRouter(prefix=PREFIX, tags=["native"])


class InfotextQuestion(Part):
    """An image that may say how it was made. ``image`` is the attachment's name."""

    image: Annotated[str, Attachment()] = Field(description="An image that may say how it was made")


#: The call's body.
BODY = Body("Infotext", "An image to read.", fields_of(InfotextQuestion), lambda field: True)


class InfotextOut(BaseModel):
    """The request that an image tells."""

    text: str | None = Field(description="AUTOMATIC1111's parameters text; null if the image has none")
    task: str | None = Field(description="The call that makes such an image; null without a text")
    fields: dict[str, Any] = Field(description="The call's fields, without images and the model")
    images: list[str] = Field(description="The images that the request had, by their fields: a text cannot hold them")
    model: str | None = Field(description="The installed model that the text names, by name or hash; null if none is")
    named: str | None = Field(description="The model's name in the text")
    unused: list[str] = Field(description="What of the text no field has, and which LoRAs are not here, in sentences")


def _installed(told: RequestFields, models: InstalledModels) -> str | None:
    """Return the installed model that a text names; None if it names none, or one that is not installed."""
    if told.model is not None:
        with suppress(UnknownModel):
            return models.find(told.model)
    digest = (told.model_hash or "").lower()
    # A1111's older hashes have eight digits, of something else.
    same = (model.name for model in models.all() if model.manifest.source.sha256.startswith(digest))
    return next(same, None) if len(digest) >= SHORT_HASH else None


def _read(data: bytes, models: InstalledModels, addons: KnownAddons) -> InfotextOut:
    """Return the request that an image tells; raise ImageError for other files."""
    read_image(data)
    found = find_infotext(data)
    if found.text is None:
        unread = [encodable(f"{name}: {why}") for name, why in found.unread.items()]
        return InfotextOut(text=None, task=None, fields={}, images=[], model=None, named=None, unused=unread)
    told = read_request_fields(read_infotext(found.text))
    here = find_addons(told, addons)
    return InfotextOut(
        text=encodable(found.text),
        task=told.task,
        fields={name: encodable(value) if isinstance(value, str) else value for name, value in here.fields.items()},
        images=list(told.attachments),
        model=_installed(told, models),
        named=None if told.model is None else encodable(told.model),
        unused=[encodable(str(each)) for each in (*told.unused, *here.missing, *here.notes)],
    )


@router.post("/infotext", responses=BAD_BODY, openapi_extra=BODY.route, summary="Read how an image was made")
async def infotext(request: Request, memory: Memory, models: Models, service: Generation) -> InfotextOut:
    """Returns the request that made an image: of this server, or of another program that writes AUTOMATIC1111's text.

    Sent again with the model, and with the images that it had, one of ours makes the same pixels.
    """
    async with memory.reserve(request.scope):
        data = (await read_upload(request, BODY)).attachments[IMAGE]
        try:
            return await run_in_threadpool(lambda: _read(data, models, service.known_addons()))
        except ImageError as bad:
            return require(bad_image(IMAGE, bad))
