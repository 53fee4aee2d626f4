"""OpenAI's calls that make images: each is one of our tasks, and makes the same job."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from server.api.answers import streamed_json
from server.api.dependencies import Client, Generation, IdempotencyKey, Memory, Models, Queue, RetryCount, is_retry
from server.api.errors import require
from server.api.openai import PREFIX
from server.api.openai.answer import Answering, ImagesResponse
from server.api.openai.errors import MAKING
from server.api.openai.fields import EDIT, GENERATION, VARIATION, Asked, Call, asked
from server.api.openai.models import model_name
from server.api.openai.reading import read_values
from server.api.refusal import Refusal
from server.api.service import MASK, Service
from server.api.submission import SubmitOptions, hashed
from server.errors import ApiError
from server.jobs.job import Priority
from server.jobs.queue import JobQueue
from server.pipeline.abilities import ADAPTER
from server.pipeline.request import TASKS, RequestError, edit_task

router = APIRouter(prefix=PREFIX, tags=["openai"])

#: The model of which OpenAI's API takes an image's own transparency for its mask.
_OWN_ALPHA = "dall-e-2"


class _Asking:
    """The parts of the server that a call needs, and who calls."""

    def __init__(
        self,
        request: Request,
        service: Generation,
        queue: Queue,
        models: Models,
        memory: Memory,
        client: Client,
        key: IdempotencyKey = None,
        retries: RetryCount = None,
    ) -> None:
        self.request, self.service, self.queue, self.models = request, service, queue, models
        self.memory, self.client, self.key, self.retries = memory, client, key, retries


async def _references(values: dict[str, Any], call: Call, service: Service, model: str | None) -> tuple[str, ...]:
    """Put a list's first image into ``image``, a second one into ``adapter_image``; return notes on it.

    Raises ApiError for more images than the model takes.
    """
    images = values.get("image")
    if images is None:
        return ()
    values["image"] = images[0] if images else None
    if len(images) < 2 or "image" not in call.body.attachments:
        return ()
    needs = ADAPTER.needs(require(await service.bind(model)).manifest)
    beside = values.get("adapter_image") is not None
    if len(images) > 2 or needs is not None or beside:
        most = "two, of which the second stands beside the prompt" if needs is None else f"one: {needs}"
        most = "one beside adapter_image" if needs is None and beside else most
        message = f"image has {len(images)} images; accepted: {most}"
        raise ApiError(422, "too_many_images", message, field="image", accepted=most)
    values["adapter_image"] = images[1]
    return ("the second image stands beside the prompt, as adapter_image does",)


async def _with_masks(found: Asked, service: Service, named: str | None) -> Asked:
    """Turn a mask that is transparent where the image is to change into ours, which is white there."""
    attachments = dict(found.upload.attachments)
    if MASK in attachments:
        mask = require(await service.mask_from_alpha(attachments[MASK]))
        attachments[MASK] = mask.value
        found = replace(found, notes=(*found.notes, *mask.notes))
    elif named == _OWN_ALPHA and "image" in attachments:
        own = await service.mask_from_alpha(attachments["image"])
        if not isinstance(own, Refusal):
            attachments[MASK] = own.value
    return found.with_attachments(attachments)


async def _answering(call: Call, ask: _Asking) -> Answering:
    """Submit a call's request; raise ApiError or RequestError if something in it is wrong."""
    values = await read_values(ask.request, call.body)
    named = values.pop("model", None)
    if named is not None and not isinstance(named, str):
        raise RequestError("model", named, "the name of an installed model")
    model = await model_name(named, ask.models, ask.request)
    notes = await _references(values, call, ask.service, model)
    found = asked(values, call, {"adapter_image": "image.1"} if notes else {})
    found = found if call is not EDIT else await _with_masks(found, ask.service, named)
    upload = found.upload
    attached = {name: name for name in upload.attachments if name in call.body.attachments}
    fields = {**upload.fields, **attached, "model": model}
    priority: Priority = fields.pop("priority") or "normal"
    with found.named_as_sent():
        task = edit_task(fields) if call is EDIT else TASKS[call.task]
        bound = require(await ask.service.bind_request(task, fields, upload.attachments))
        options = SubmitOptions(
            client=ask.client,
            priority=priority,
            key=ask.key,
            attachments=upload.attachments,
            fingerprint=await hashed(f"{PREFIX}{call.path}", {**upload.fields, "model": model}, upload.attachments),
            is_retry=is_retry(ask.retries),
        )
        accepted = require(await ask.service.submit(bound.with_notes((*notes, *found.notes)), options))
    base = str(ask.request.base_url).rstrip("/")
    return Answering(ask.service, call, found, accepted, bound.request.output.quality, base)


async def _answer(answering: Answering, queue: JobQueue) -> Response:
    if answering.asked.stream:
        job = require(answering.service.job(answering.accepted.job_id))
        headers = {**answering.headers(job), "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        # Last, since only the stream ends it; the stream reads the job again, so that no event in between is lost.
        events = queue.events.subscribe(answering.accepted.job_id)
        return StreamingResponse(answering.events(events), headers=headers, media_type="text/event-stream")
    job = require(await answering.service.result(answering.accepted.job_id))
    headers, parts = answering.headers(job), answering.body(job)
    if len(job.images) > 1:
        require(await answering.service.with_files(job))
        return await streamed_json(parts, headers)
    return Response(b"".join([part async for part in parts]), headers=headers, media_type="application/json")


_STREAM = {"schema": {"type": "string"}}
_MADE: dict[str, Any] = {
    "model": ImagesResponse,
    "description": "The images; with `stream` events that end in one `completed` for each image",
    "content": {"text/event-stream": _STREAM},
}


def _add_route(call: Call, summary: str, about: str) -> None:
    async def make(ask: Annotated[_Asking, Depends()]) -> Response:
        async with ask.memory.reserve(ask.request.scope):
            # The upload is on disk afterwards, and not kept in memory while the client waits for its image.
            answering = await _answering(call, ask)
        return await _answer(answering, ask.queue)

    router.add_api_route(
        call.path,
        make,
        methods=["POST"],
        name=call.body.name,
        summary=summary,
        description=about,
        responses={200: _MADE, **MAKING},
        response_class=Response,
        openapi_extra=call.body.route,
    )


_add_route(
    GENERATION,
    "Make images from a prompt, as OpenAI's API does",
    "Takes our fields beside OpenAI's. Fields that are not known here are named in `notes`.",
)
_add_route(
    EDIT,
    "Change an image, as OpenAI's API does",
    "With a mask, which is transparent where the image is to change, only that part changes. Images are files of a form, or "
    "`images` with `image_url` in JSON.",
)
_add_route(VARIATION, "Make variations of an image, as OpenAI's API does", "Makes images like the one that is sent.")
