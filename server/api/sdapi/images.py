"""The calls that make images: txt2img and img2img."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from converter.folder import Manifest
from server.api.dependencies import Client, Generation, Memory, Models
from server.api.errors import require
from server.api.refusal import Refusal
from server.api.sdapi import PREFIX
from server.api.sdapi.asked import Asked, asked, with_fit
from server.api.sdapi.bodies import Img2ImgBody, Making, Txt2ImgBody, read_body, route_of
from server.api.sdapi.checkpoints import find_checkpoint
from server.api.sdapi.echo import echo_of
from server.api.sdapi.errors import WAITING
from server.api.sdapi.info import info_of
from server.api.sdapi.names import in_their_words, their_error, their_refusal
from server.api.sdapi.state import Remembered, Task
from server.api.sdapi.upscalers import our_upscaler
from server.api.service import Service
from server.api.submission import SubmitOptions
from server.jobs.job import Job
from server.models.installed import InstalledModels
from server.pipeline.encoding.formats import FORMATS, PNG
from server.pipeline.request import GenerationRequest, RequestError
from server.security.headers import JOB_ID

router = APIRouter(prefix=PREFIX, tags=["automatic1111"])


class ImagesOut(BaseModel):
    """Finished images."""

    images: list[str] = Field(description="Base64, without the head of a data: URI; empty if `send_images` is false")
    parameters: dict[str, Any] = Field(description="The keys that were sent, without images")
    info: str = Field(description="JSON: prompts, seeds, infotexts, settings; `comments` has what was not used")


@dataclass(frozen=True)
class _Call:
    """What a call needs besides its body."""

    request: Request
    service: Generation
    models: Models
    memory: Memory
    client: Client
    state: Remembered


Call = Annotated[_Call, Depends()]


@dataclass(frozen=True)
class Submitted:
    """A job, the model that it runs on, and what of its body the answer needs."""

    job_id: str
    manifest: Manifest
    send_images: bool
    echo: dict[str, Any]


def model_of(body: Making, models: InstalledModels, chosen: str | None) -> str | None:
    """Return the name of the model of this one request; None: the server's default. Raises RequestError."""
    key = "sd_model_checkpoint"
    named = (body.override_settings or {}).get(key)
    if named is None or named == "":
        return chosen
    place = f"override_settings.{key}"
    if not isinstance(named, str):
        raise RequestError(place, named, "a model's title, name or hash")
    return find_checkpoint(models, named, place)


async def _named(request: Asked, body: Making, call: _Call) -> None:
    """Put our names in the place of the client's names of upscalers and refiners; raises RequestError."""
    upscaler = request.fields.get("hires_upscaler")
    if upscaler is not None:
        request.fields["hires_upscaler"] = our_upscaler(upscaler, await run_in_threadpool(call.service.upscalers))
    refiner = body.refiner_checkpoint
    if refiner and refiner.lower() != "none":
        place = "refiner_checkpoint"
        request.fields["refiner"] = await run_in_threadpool(find_checkpoint, call.models, refiner, place)
    else:
        request.fields.pop("refiner_switch", None)


async def _submitted(call: _Call, body: Making) -> Submitted:
    """Submit a request; raise RequestError or ApiError if something in it is wrong."""
    name = await run_in_threadpool(model_of, body, call.models, call.state.model)
    model = require(_in_their_keys(await call.service.bind(name)))
    request = asked(body, model.manifest)
    try:
        await _named(request, body, call)
        fields = {**request.fields, "model": model.name}
        bound = require(
            _in_their_keys(await call.service.bind_request(request.task, fields, request.attachments), request)
        )
        image = require(await call.service.image_size(request.attachments))
        request = with_fit(request, image, (bound.request.size.width, bound.request.size.height))
        options = SubmitOptions(client=call.client, attachments=request.attachments)
        accepted = require(_in_their_keys(await call.service.submit(bound.with_notes(request.notes), options), request))
    except RequestError as error:
        raise their_error(error, request.units, request.keys) from error
    job_id = accepted.job_id
    call.state.tasks.add(Task(body.force_task_id or job_id, job_id, call.client))
    return Submitted(job_id, model.manifest, body.send_images is not False, echo_of(body))


def _in_their_keys(result: Any, request: Asked | None = None) -> Any:
    units = () if request is None else request.units
    return their_refusal(result, units) if isinstance(result, Refusal) else result


async def _finished(service: Service, job_id: str) -> Job:
    """Wait for the job; one that was interrupted counts as finished if it has an image. Raises ApiError."""
    outcome = await service.result(job_id)
    if isinstance(outcome, Refusal) and outcome.reason == "cancelled":
        job = service.job(job_id)
        if isinstance(job, Job) and job.images:
            return replace(job, notes=(*job.notes, "the job was interrupted before it had all its images"))
    return require(outcome)


async def _answer(service: Service, submitted: Submitted) -> Response:
    job = await _finished(service, submitted.job_id)
    request = job.request
    assert isinstance(request, GenerationRequest)
    output = request.output
    to = PNG if output.format is None else FORMATS[output.format]
    images = [require(await service.image(job, image, to, output.quality)) for image in job.images]
    body = await run_in_threadpool(_body, job, request, images, submitted)
    return Response(body, 200, {JOB_ID: job.id}, "application/json")


def _body(job: Job, request: GenerationRequest, images: list[bytes], submitted: Submitted) -> bytes:
    notes = [in_their_words(note) for note in job.notes]
    sent = images if submitted.send_images else []
    return json.dumps(
        {
            "images": [base64.b64encode(image).decode() for image in sent],
            "parameters": submitted.echo,
            "info": info_of(job, request, job.images, submitted.manifest, notes),
        }
    ).encode()


async def _make(call: _Call, kind: type[Making]) -> Response:
    async with call.memory.reserve(call.request.scope):
        submitted = await _submitted(call, await read_body(call.request, kind))
    return await _answer(call.service, submitted)


_MADE: dict[int | str, dict[str, Any]] = {200: {"model": ImagesOut, "description": "The images"}, **WAITING}


@router.post(
    "/txt2img",
    responses=_MADE,
    response_class=Response,
    openapi_extra=route_of(Txt2ImgBody),
    summary="Make images from a prompt, as AUTOMATIC1111 does",
)
async def txt2img(call: Call) -> Response:
    """Answers when the images are finished. What is left out takes the model's defaults, not AUTOMATIC1111's.

    A connection that ends does not cancel the job; `POST /sdapi/v1/interrupt` does. The header X-Job-Id names the job.
    """
    return await _make(call, Txt2ImgBody)


@router.post(
    "/img2img",
    responses=_MADE,
    response_class=Response,
    openapi_extra=route_of(Img2ImgBody),
    summary="Make images from an image and a prompt, as AUTOMATIC1111 does",
)
async def img2img(call: Call) -> Response:
    """Answers as txt2img does; with a `mask`, what is white in it is painted again."""
    return await _make(call, Img2ImgBody)
