"""The native API's control maps: what a preprocessor makes of an image, for people to look at."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from server.api.answers import notes_headers
from server.api.body import Body
from server.api.dependencies import Answers, Generation, Memory
from server.api.errors import require
from server.api.native import PREFIX
from server.api.native.errors import BAD_BODY
from server.api.native.image_answer import CONTENT, NOT_ACCEPTABLE, Accept, accepted_type
from server.api.upload import read_upload
from server.pipeline.encoding.formats import PNG
from server.pipeline.fields import fields_of
from server.pipeline.request.controls import MapQuestion

router = APIRouter(prefix=PREFIX, tags=["native"])

#: The call's body.
BODY = Body(
    "Preprocess",
    "An image to make a control map of.",
    fields_of(MapQuestion),
    lambda field: field.name in ("image", "preprocessor"),
)

_ANSWERS: Answers = {
    200: {
        "description": "The control map",
        "content": {PNG.media_type: CONTENT[PNG.media_type]},
    },
    **BAD_BODY,
    **NOT_ACCEPTABLE,
}


@router.post(
    "/preprocess",
    responses=_ANSWERS,
    response_class=Response,
    openapi_extra=BODY.route,
    summary="Make a control map of an image",
)
async def preprocess(request: Request, service: Generation, memory: Memory, accept: Accept = None) -> Response:
    """Returns the map as a PNG, as a request with the same preprocessor and size gives it to its ControlNet."""
    accepted_type(accept, (PNG.media_type,))
    async with memory.reserve(request.scope):
        upload = await read_upload(request, BODY)
        sent = {name: value for name, value in upload.fields.items() if value is not None}
        made = require(await service.control_map(upload.attachments["image"], MapQuestion(image="image", **sent)))
    return Response(made.value, 200, notes_headers(made.notes), PNG.media_type)
