"""The native API's call that enlarges an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from server.api.body import Body
from server.api.dependencies import Generation, Memory
from server.api.errors import require
from server.api.native import PREFIX
from server.api.native.image_answer import encoding_of
from server.api.native.images import MAKING, Submit, Submitted, answer, submit_options
from server.api.request_body import Submission
from server.api.service import Service
from server.api.upload import Upload, read_upload
from server.models.upscalers import Upscaler
from server.pipeline.boxes.box import Shape
from server.pipeline.cost import Cost, upscale_cost
from server.pipeline.request import UPSCALE_FIELDS, UpscaleRequest, bind_upscale

router = APIRouter(prefix=PREFIX, tags=["native"])

_PATH = "/upscale"
BODY = Body(
    "Upscale",
    "Enlarge an image. It needs no prompt and no model of Stable Diffusion.",
    UPSCALE_FIELDS,
    lambda field: field.is_attachment,
    Submission,
)


async def bound_upscale(
    service: Service, fields: Mapping[str, Any], attachments: Mapping[str, bytes]
) -> tuple[UpscaleRequest, Cost]:
    """Return the request with all its values and what it costs; raise RequestError or ApiError if something is wrong.

    ``fields`` has the name of the attached image in place of its content.
    """
    source = require(await service.image_size(attachments))
    assert source is not None  # the body requires an image
    return bound_with(await run_in_threadpool(service.upscalers), source, fields)


def bound_with(
    upscalers: Mapping[str, Upscaler], source: Shape, fields: Mapping[str, Any]
) -> tuple[UpscaleRequest, Cost]:
    """Return the same for an upright image of this width and height; raise RequestError."""
    tiles = {name: upscaler.tile for name, upscaler in upscalers.items()}
    request = bind_upscale(tiles, source, **fields)
    return request, upscale_cost(request, upscalers[request.upscaler].scale)


async def _submitted(service: Service, submit: Submit, upload: Upload) -> Submitted:
    """Submit an uploaded request; raise RequestError or ApiError if something in it is wrong."""
    options = await submit_options(submit, f"{PREFIX}{_PATH}", upload)
    fields = {name: value for name, value in upload.fields.items() if name != "priority"}
    attached = {name: name for name in upload.attachments}
    request, cost = await bound_upscale(service, {**fields, **attached}, upload.attachments)
    encoding = None if submit.wants_job else encoding_of(request.output, submit.accept)
    return Submitted(require(await service.submit_job(request, cost, options)), encoding)


@router.post(
    _PATH,
    responses=MAKING,
    response_class=Response,
    openapi_extra=BODY.route,
    summary="Enlarge an image",
)
async def upscale(request: Request, service: Generation, submit: Submit, memory: Memory) -> Response:
    """Returns the enlarged image when it is finished, or a job, as the other calls do. The loaded model stays loaded."""
    async with memory.reserve(request.scope):
        submitted = await _submitted(service, submit, await read_upload(request, BODY))
    return await answer(service, submit, submitted)
