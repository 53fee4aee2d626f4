"""The calls that enlarge images: a job of ours for each."""

from __future__ import annotations

import html
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from server.api.answers import base64_of, json_list, streamed_json
from server.api.errors import require
from server.api.image_json import MOST_IMAGES
from server.api.native.upscale import bound_with
from server.api.sdapi import PREFIX
from server.api.sdapi.bodies import Body, Flag, Image, Name, read_body, route_of
from server.api.sdapi.call import Call
from server.api.sdapi.errors import WAITING
from server.api.sdapi.names import in_their_keys, in_their_words, their_error
from server.api.sdapi.scripts import base64_image
from server.api.sdapi.upscalers import named, our_upscaler
from server.api.service import IMAGE
from server.api.submission import SubmitOptions
from server.jobs.job import Job
from server.pipeline.boxes.box import Shape
from server.pipeline.limits import FIRST_ONLY, Real, Whole
from server.pipeline.request import RequestError
from server.pipeline.upscaling.names import RESAMPLINGS
from server.security.headers import JOB_ID

router = APIRouter(prefix=PREFIX, tags=["automatic1111"])

#: The keys of our fields.
_KEYS = {
    "upscaler": "upscaler_1",
    "scale": "upscaling_resize",
    "width": "upscaling_resize_w",
    "height": "upscaling_resize_h",
}
#: The size if none is sent.
_FACTOR, _SIDE = 2.0, 512
_VISIBILITIES = {
    "gfpgan_visibility": "faces are not restored here",
    "codeformer_visibility": "faces are not restored here",
    "extras_upscaler_2_visibility": "one upscaler is used here",
}


class Enlarging(Body):
    """The keys of both calls."""

    resize_mode: Whole | None = Field(None, description="0: by a factor; 1: to a size")
    upscaling_resize: Real | None = Field(None, description="The factor, 1 to 8; left out: 2")
    upscaling_resize_w: Whole | None = Field(None, description="The width; left out: 512")
    upscaling_resize_h: Whole | None = Field(None, description="The height; left out: 512")
    upscaling_crop: Flag | None = Field(None, description="false: the image covers the size, and is not cropped to it")
    upscaler_1: Name | None = Field(
        None, description="An upscaler; None, the default, leaves the image as large as it is"
    )
    gfpgan_visibility: Real | None = Field(None, description="Not used")
    codeformer_visibility: Real | None = Field(None, description="Not used")
    upscaler_2: Name | None = Field(None, description="Not used")
    extras_upscaler_2_visibility: Real | None = Field(None, description="Not used")


class ExtrasBody(Enlarging):
    """Enlarge an image."""

    image: Image = Field(None, description="The image, as base64")


class NamedImage(Body):
    """An image of a batch."""

    data: Image = Field(None, description="The image, as base64")
    name: Name | None = Field(None, description="Its file's name")


class ExtrasBatchBody(Enlarging):
    """Enlarge several images."""

    imageList: Annotated[list[NamedImage], FIRST_ONLY, Field(max_length=MOST_IMAGES)] | None = Field(
        None, description="The images"
    )


class ExtrasOut(BaseModel):
    """An enlarged image."""

    html_info: str = Field(description="What was not used, as HTML")
    image: str = Field(description="A PNG as base64")


class ExtrasBatchOut(BaseModel):
    """Enlarged images."""

    html_info: str = Field(description="What was not used, as HTML")
    images: list[str] = Field(description="PNGs as base64")


def _size(body: Enlarging, source: Shape) -> dict[str, Any]:
    """Return the fields that say how large the image becomes; raises RequestError."""
    if body.resize_mode not in (None, 0, 1):
        raise RequestError("resize_mode", body.resize_mode, "0, 1")
    if named(body.upscaler_1) is None:
        return {"scale": 1.0}
    if not body.resize_mode:
        return {"scale": _FACTOR if body.upscaling_resize is None else body.upscaling_resize}
    width = _SIDE if body.upscaling_resize_w is None else body.upscaling_resize_w
    height = _SIDE if body.upscaling_resize_h is None else body.upscaling_resize_h
    if body.upscaling_crop is not False:
        return {"width": width, "height": height}
    covers = "width" if width * source[1] >= height * source[0] else "height"
    return {covers: width if covers == "width" else height}


def _unused(body: Enlarging) -> Iterator[str]:
    if named(body.upscaler_1) is None:
        yield "upscaler_1 is None: the image was left as large as it is"
    for key, why in _VISIBILITIES.items():
        if getattr(body, key):
            yield f"{key} was not used: {why}"


async def _submitted(call: Call, body: Enlarging, sent: Any, place: str) -> str:
    """Submit an image, which the client sent at ``place``, and return its job's id; raise RequestError or ApiError."""
    attachments = {IMAGE: base64_image(sent, place)}
    keys = {**_KEYS, IMAGE: place}
    source = require(in_their_keys(await call.service.image_size(attachments), keys=keys))
    assert source is not None
    known = await run_in_threadpool(call.service.upscalers)
    name = named(body.upscaler_1)
    upscaler = RESAMPLINGS[0] if name is None else our_upscaler(name, known)
    try:
        fields: Mapping[str, Any] = {IMAGE: IMAGE, "upscaler": upscaler, **_size(body, source)}
        request, cost = bound_with(known, source, fields)
    except RequestError as error:
        raise their_error(error, keys=keys) from error
    request = request.model_copy(update={"notes": (*_unused(body), *request.notes)})
    options = SubmitOptions(client=call.client, attachments=attachments)
    accepted = require(in_their_keys(await call.service.submit_job(request, cost, options), keys=keys))
    call.remember(accepted.job_id)
    return accepted.job_id


async def _image(call: Call, job: Job) -> str:
    image = require(await call.service.image(job, job.images[0]))
    return await base64_of(image)


def _html(*jobs: Job) -> str:
    notes = dict.fromkeys(in_their_words(note) for job in jobs for note in job.notes)
    return "".join(f"<p>{html.escape(note)}</p>" for note in notes)


@router.post(
    "/extra-single-image",
    responses={200: {"model": ExtrasOut, "description": "The image"}, **WAITING},
    response_class=Response,
    openapi_extra=route_of(ExtrasBody, images=True),
    summary="Enlarge an image, as AUTOMATIC1111 does",
)
async def extra_single_image(call: Call) -> Response:
    """Answers when the image is finished. It needs no model of Stable Diffusion."""
    async with call.memory.reserve(call.request.scope):
        body = await read_body(call.request, ExtrasBody)
        job_id = await _submitted(call, body, body.image, "image")
    job = await call.finished(job_id)
    content = f'{{"html_info": {json.dumps(_html(job))}, "image": "{await _image(call, job)}"}}'
    return Response(content.encode(), 200, {JOB_ID: job_id}, "application/json")


@router.post(
    "/extra-batch-images",
    responses={200: {"model": ExtrasBatchOut, "description": "The images"}, **WAITING},
    response_class=Response,
    openapi_extra=route_of(ExtrasBatchBody, images=True),
    summary="Enlarge several images, as AUTOMATIC1111 does",
)
async def extra_batch_images(call: Call) -> Response:
    """Answers when all images are finished: a job for each, which X-Job-Id names in their order."""
    async with call.memory.reserve(call.request.scope):
        body = await read_body(call.request, ExtrasBatchBody)
        images = body.imageList or []
        if not images:
            raise RequestError("imageList", body.imageList, "a list of images, each an object with data")
        job_ids: list[str] = []
        try:
            for i, each in enumerate(images):
                job_ids.append(await _submitted(call, body, each.data, f"imageList.{i}.data"))
        except BaseException:
            for job_id in job_ids:  # nobody gets their images
                await run_in_threadpool(call.service.cancel, job_id)
            raise
    jobs = [await call.finished(job_id) for job_id in job_ids]
    return await streamed_json(_batch(call, jobs), {JOB_ID: ", ".join(job_ids)})


async def _batch(call: Call, jobs: list[Job]) -> AsyncIterator[bytes]:
    """Yield an `ExtrasBatchOut`, its images one by one: sixteen large ones would take gigabytes."""
    images = (f'"{await _image(call, job)}"' for job in jobs)
    async for part in json_list(f'{{"html_info": {json.dumps(_html(*jobs))}, "images": [', images):
        yield part
    yield b"}"
