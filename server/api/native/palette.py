"""The native API's palettes: the colors of an image that a client sends."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from server.api.answers import notes_headers
from server.api.body import Body
from server.api.dependencies import Answers, Generation, Memory
from server.api.errors import require
from server.api.native import PREFIX
from server.api.native.errors import BAD_BODY
from server.api.native.image_answer import CONTENT, JSON, NOT_ACCEPTABLE, Accept, accepted_type
from server.api.native.schemas import ColorOut, colors_out
from server.api.upload import read_upload
from server.pipeline.encoding.formats import PNG
from server.pipeline.fields import fields_of
from server.pipeline.palette.extraction import USUAL, strip
from server.pipeline.request.edits import PaletteQuestion

router = APIRouter(prefix=PREFIX, tags=["native"])

#: The call's body.
BODY = Body(
    "Palette", "An image whose colors to find.", fields_of(PaletteQuestion), lambda field: field.info.is_required()
)


class PaletteOut(BaseModel):
    """An image's colors, the largest share first."""

    colors: list[ColorOut]


_ANSWERS: Answers = {
    200: {
        "model": PaletteOut,
        "description": "The colors; as a PNG with a square of each, if the Accept header prefers that",
        "content": {PNG.media_type: CONTENT[PNG.media_type]},
    },
    **BAD_BODY,
    **NOT_ACCEPTABLE,
}


@router.post(
    "/palette",
    responses=_ANSWERS,
    response_class=Response,
    openapi_extra=BODY.route,
    summary="Find an image's colors",
)
async def palette(
    request: Request,
    service: Generation,
    memory: Memory,
    accept: Accept = None,
) -> Response:
    """Returns the colors with their shares: k-means in OKLab, the same every time for the same image."""
    to = accepted_type(accept, (JSON, PNG.media_type))
    async with memory.reserve(request.scope):
        upload = await read_upload(request, BODY)
        found = require(await service.palette(upload.attachments["image"], upload.fields["colors"] or USUAL))
    headers: dict[str, Any] = {"Vary": "Accept", **notes_headers(found.notes)}
    if to == JSON:
        return Response(PaletteOut(colors=colors_out(found.value)).model_dump_json(), 200, headers, JSON)
    return Response(strip(found.value), 200, headers, to)
