"""The calls that make images: txt2img and img2img."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool

from server.api.errors import require
from server.api.sdapi import PREFIX
from server.api.sdapi.answer import ImagesOut, Submitted, answer
from server.api.sdapi.asked import Asked, asked
from server.api.sdapi.bodies import Img2ImgBody, Making, Txt2ImgBody, read_body, route_of
from server.api.sdapi.call import Call
from server.api.sdapi.checkpoints import find_checkpoint
from server.api.sdapi.echo import echo_of
from server.api.sdapi.errors import WAITING
from server.api.sdapi.names import in_their_keys, their_error
from server.api.sdapi.recalled import Recalled, recall
from server.api.sdapi.source import has_mask, task_of
from server.api.sdapi.upscalers import our_upscaler
from server.api.service import IMAGE, Service
from server.api.submission import BoundModel, BoundRequest, SubmitOptions
from server.models.installed import InstalledModels
from server.pipeline.boxes.box import Shape
from server.pipeline.request import RequestError

router = APIRouter(prefix=PREFIX, tags=["automatic1111"])


def _own_model(body: Making, models: InstalledModels) -> str | None:
    """Return the model that a request names for itself; None if it names none. Raises RequestError."""
    key = "sd_model_checkpoint"
    named = (body.override_settings or {}).get(key)
    if named is None or named == "":
        return None
    place = f"override_settings.{key}"
    if not isinstance(named, str):
        raise RequestError(place, named, "a model's title, name or hash")
    return find_checkpoint(models, named, place)


def _told(body: Making, call: Call) -> tuple[str | None, Recalled]:
    """Return the model that a request names, and what its infotext says. Raises RequestError."""
    recalled = Recalled()
    if body.infotext:
        attached = ("image", "mask") if has_mask(body) else ("image",) if isinstance(body, Img2ImgBody) else ()
        upscalers, addons = call.service.upscalers(), call.service.known_addons()
        recalled = recall(body.infotext, task_of(body), attached, call.models, upscalers, addons)
    return _own_model(body, call.models) or recalled.model, recalled


async def _named(request: Asked, body: Making, call: Call) -> None:
    """Put our names in the place of the client's names of upscalers and refiners; raises RequestError."""
    upscaler = request.fields.get("hires_upscaler")
    if upscaler is not None:
        request.fields["hires_upscaler"] = our_upscaler(upscaler, await run_in_threadpool(call.service.upscalers))
    asked_refiner = body.refiner_checkpoint or request.fields.get("refiner")
    if asked_refiner and asked_refiner.lower() != "none":
        found = await run_in_threadpool(find_checkpoint, call.models, asked_refiner, "refiner_checkpoint")
        request.fields["refiner"] = found
    else:
        request.fields.pop("refiner_switch", None)


async def _fit_notes(request: Asked, size: Shape, service: Service) -> list[str]:
    """Return notes on images that are fitted otherwise than the client asked for."""
    notes = []
    for fit in request.fits:
        image = await service.image_size({IMAGE: request.attachments[fit.attachment]})
        # What is no image is refused when the request is submitted.
        if isinstance(image, tuple) and (note := fit.note(image, size)) is not None:
            notes.append(note)
    return notes


async def _bound(call: Call, body: Making, model: BoundModel, recalled: Recalled) -> tuple[Asked, BoundRequest]:
    """Return what a body asks for, and the request; raise RequestError or ApiError if something in it is wrong."""
    request = asked(body, model.manifest, recalled)
    try:
        await _named(request, body, call)
        fields = {**request.fields, "model": model.name}
        bound = require(
            in_their_keys(
                await call.service.bind_request(request.source.task, fields, request.attachments), request.units
            )
        )
    except RequestError as error:
        if error.field.partition(".")[0] in recalled.fields:
            # Nobody sent it; if the body has it as well, it is refused once more.
            return await _bound(call, body, model, recalled.without(error))
        raise their_error(error, request.units, request.keys) from error
    size = (bound.request.size.width, bound.request.size.height)
    return request, bound.with_notes([*request.notes, *await _fit_notes(request, size, call.service)])


async def _submitted(call: Call, body: Making) -> Submitted:
    """Submit a request; raise RequestError or ApiError if something in it is wrong."""
    name, recalled = None, Recalled()
    if body.override_settings or body.infotext:
        name, recalled = await run_in_threadpool(_told, body, call)
    model = require(in_their_keys(await call.service.bind(name or call.state.model)))
    request, bound = await _bound(call, body, model, recalled)
    options = SubmitOptions(client=call.client, attachments=request.attachments)
    try:
        accepted = require(in_their_keys(await call.service.submit(bound, options), request.units))
    except RequestError as error:
        raise their_error(error, request.units, request.keys) from error
    call.remember(accepted.job_id, body.force_task_id)
    echo = await run_in_threadpool(echo_of, body, request.attachments)
    return Submitted(accepted.job_id, model.manifest, body.send_images is not False, echo)


async def _make(call: Call, kind: type[Making]) -> Response:
    async with call.memory.reserve(call.request.scope):
        # The upload is on disk afterwards, and not kept in memory while the client waits for its image.
        submitted = await _submitted(call, await read_body(call.request, kind))
    return await answer(call, submitted)


_MADE: dict[int | str, dict[str, Any]] = {200: {"model": ImagesOut, "description": "The images"}, **WAITING}


@router.post(
    "/txt2img",
    responses=_MADE,
    response_class=Response,
    openapi_extra=route_of(Txt2ImgBody, images=True),
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
    openapi_extra=route_of(Img2ImgBody, images=True),
    summary="Make images from an image and a prompt, as AUTOMATIC1111 does",
)
async def img2img(call: Call) -> Response:
    """Answers as txt2img does; with a `mask`, what is white in it is painted again."""
    return await _make(call, Img2ImgBody)
