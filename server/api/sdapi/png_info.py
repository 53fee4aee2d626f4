"""The calls that look at an image: its parameters; and a description, which this server cannot make."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from server.api.dependencies import Memory
from server.api.errors import require
from server.api.refusal import bad_image
from server.api.sdapi import PREFIX
from server.api.sdapi.bodies import Body, Image, read_body, route_of
from server.api.sdapi.errors import BAD_BODY, answers
from server.api.sdapi.scripts import base64_image
from server.api.service import IMAGE
from server.errors import ApiError, encodable
from server.pipeline.decoding.file import ImageError
from server.pipeline.images import read_image
from server.pipeline.infotext import find_infotext, read_infotext
from server.pipeline.request import RequestError

router = APIRouter(prefix=PREFIX, tags=["automatic1111"])

#: A1111's names of the prompts among the parameters.
_PROMPT, _NEGATIVE = "Prompt", "Negative prompt"


class ImageBody(Body):
    """An image to look at."""

    image: Image = Field(None, description="The image, as base64")


class PngInfoOut(BaseModel):
    """What an image says of how it was made."""

    info: str = Field(description="AUTOMATIC1111's parameters text; empty if there is none")
    items: dict[str, str] = Field(description="The image's other texts")
    parameters: dict[str, Any] = Field(description="The text's settings by name")


def _parameters(text: str) -> dict[str, Any]:
    read = read_infotext(text)
    settings: dict[str, Any] = {_PROMPT: read.prompt, _NEGATIVE: read.negative_prompt, **read.settings}
    width, _, height = read.settings.get("Size", "").partition("x")
    if width.isdecimal() and height.isdecimal():
        settings |= {"Size-1": width, "Size-2": height}
    return settings


def _told(data: bytes) -> PngInfoOut:
    try:
        read_image(data)  # refuses what is no image
        found = find_infotext(data)
    except ImageError as bad:
        return require(bad_image(IMAGE, bad))
    text = encodable(found.text or "")
    items = {encodable(name): encodable(value) for name, value in found.items.items()}
    items |= {encodable(name): encodable(f"not read: {why}") for name, why in found.unread.items()}
    if text:
        items = {"parameters": text, **items}
    return PngInfoOut(info=text, items=items, parameters=_parameters(text) if text else {})


@router.post(
    "/png-info",
    responses=BAD_BODY,
    openapi_extra=route_of(ImageBody, images=True),
    summary="Read how an image was made",
)
async def png_info(request: Request, memory: Memory) -> PngInfoOut:
    """Returns the parameters of a PNG, JPEG, WebP or GIF, of this server and of others that write AUTOMATIC1111's text."""
    async with memory.reserve(request.scope):
        sent = (await read_body(request, ImageBody)).image
        if sent in (None, ""):
            raise RequestError("image", sent, "an image, as base64")
        return await run_in_threadpool(_told, base64_image(sent, "image"))


@router.post(
    "/interrogate",
    responses={**BAD_BODY, **answers(_404="There is no model that describes images")},
    openapi_extra=route_of(ImageBody, images=True),
    summary="Describe an image: refused",
)
async def interrogate(request: Request, memory: Memory) -> None:
    """This server has no model that describes images; answers 404."""
    async with memory.reserve(request.scope):
        await read_body(request, ImageBody)
    message = "Model not found: this server has no model that describes images"
    raise ApiError(404, "no_captioner", message)
