"""The native API's image tasks: a call for each; clients wait for the image or get a job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response

from server.api.answers import notes_headers
from server.api.body import Body
from server.api.dependencies import Answers, Client, Generation, IdempotencyKey, Memory, RetryCount, is_retry
from server.api.errors import require
from server.api.native import PREFIX
from server.api.native.errors import BAD_BODY, error
from server.api.native.image_answer import (
    CONTENT,
    NOT_ACCEPTABLE,
    Accept,
    Encoding,
    encoding_of,
    image_headers,
)
from server.api.native.jobs import job_response, job_url
from server.api.native.schemas import JobOut
from server.api.request_body import Submission
from server.api.service import Service
from server.api.submission import SubmitOptions, hashed
from server.api.upload import Upload, read_upload
from server.jobs.ledger import Accepted
from server.pipeline.request import TASKS, Task
from server.security.headers import JOB_ID

router = APIRouter(prefix=PREFIX, tags=["native"])

MAKING: Answers = {
    200: {
        "description": "The finished image; the finished job as JSON with n above 1, or if the Accept header asks for JSON",
        "content": {**CONTENT, "application/json": {"schema": {"$ref": "#/components/schemas/JobOut"}}},
    },
    202: {"model": JobOut, "description": "The job, if the request has `Prefer: respond-async`"},
    **BAD_BODY,
    403: error("`priority` is `high`, and the client is on another machine"),
    **NOT_ACCEPTABLE,
    409: error("The job was cancelled before it finished, or the file of its LoRA or embedding is another by now"),
    404: error("The image's file is missing from the data folder"),
    410: error("The job has expired"),
    429: error(
        "The queue or the client's share of it is full, or the client sent too many requests; Retry-After says when to retry"
    ),
    500: error("The job failed"),
    503: error("The model is not ready or cannot be loaded; or the server is stopping and keeps the job"),
}

Prefer = Annotated[
    list[str] | None,
    Header(description="With `respond-async`, the server immediately answers 202 with a job (RFC 7240)"),
]


@dataclass(frozen=True)
class _Submit:
    """The request's client and headers: its preferred answer, and whether it was sent before."""

    client: Client
    prefer: Prefer = None
    key: IdempotencyKey = None
    retries: RetryCount = None
    accept: Accept = None

    @property
    def wants_job(self) -> bool:
        """Whether the client prefers a job now to waiting for the image."""
        preferences = re.split(r"[,;]", ",".join(self.prefer or []))
        return any(preference.split("=")[0].strip().lower() == "respond-async" for preference in preferences)


Submit = Annotated[_Submit, Depends()]


@dataclass(frozen=True)
class Submitted:
    """An accepted request, and the encoding of its image; None: the answer is the job as JSON."""

    accepted: Accepted
    encoding: Encoding | None


async def submit_options(submit: _Submit, path: str, upload: Upload) -> SubmitOptions:
    """Return how an upload to this path is submitted; raise RequestError for a wrong key."""
    return SubmitOptions(
        client=submit.client,
        priority=upload.fields["priority"] or "normal",
        key=submit.key,
        attachments=upload.attachments,
        fingerprint=await hashed(path, upload.fields, upload.attachments),
        is_retry=is_retry(submit.retries),
    )


async def _submitted(service: Service, submit: _Submit, task: Task, upload: Upload) -> Submitted:
    """Submit an uploaded request; raise RequestError or ApiError if something in it is wrong."""
    options = await submit_options(submit, f"{PREFIX}/{task.name}", upload)
    attached = {name: name for name in upload.attachments if name in BODIES[task.name].attachments}
    fields = {**upload.fields, **attached}
    del fields["priority"]
    bound = require(await service.bind_request(task, fields, upload.attachments))
    encoding = None if submit.wants_job else encoding_of(bound.request.output, submit.accept)
    return Submitted(require(await service.submit(bound, options)), encoding)


async def answer(service: Service, submit: _Submit, submitted: Submitted) -> Response:
    """Answer with the job, or once it has ended with its image."""
    accepted, encoding = submitted.accepted, submitted.encoding
    job_id = accepted.job_id
    repeat = {"Idempotent-Replayed": "true"} if accepted.is_repeat else {}
    if submit.wants_job:
        headers = {"Location": job_url(job_id), "Preference-Applied": "respond-async", **repeat}
        return job_response(require(service.job(job_id)), 202, headers)
    job = require(await service.result(job_id))
    headers = {JOB_ID: job_id, "Content-Location": job_url(job_id), **repeat, **notes_headers(job.notes)}
    if encoding is None or len(job.images) > 1:
        return job_response(job, 200, headers)
    (image,) = job.images
    if image.seed is not None:
        headers["X-Anemone-Seed"] = str(image.seed)
    headers |= image_headers(job, image, encoding)
    data = require(await service.image(job, image, encoding.to, encoding.quality))
    return Response(data, 200, headers, encoding.to.media_type)


#: The name of each task's schema, the summary of its call, and what the call does.
_ABOUT = {
    "txt2img": (
        "Txt2Img",
        "Make an image from a prompt",
        "Returns the image when it is finished. With `Prefer: respond-async`, immediately answers 202 with a job.",
    ),
    "img2img": (
        "Img2Img",
        "Make an image from an image and a prompt",
        "Takes the image as a multipart file or as base64 in JSON, scales it to cover the size, and crops it to the size.",
    ),
    "inpaint": (
        "Inpaint",
        "Paint a part of an image again",
        "Paints where the mask is white, and keeps the rest of the image.",
    ),
    "outpaint": (
        "Outpaint",
        "Extend an image",
        "Adds pixels at the sides that `extend_left`, `extend_right`, `extend_top` and `extend_bottom` name.",
    ),
    "variations": (
        "Variations",
        "Make variations of an image",
        "Makes an image like the one that is sent; it needs no prompt.",
    ),
}


def _body(task: Task) -> Body:
    name, summary, _ = _ABOUT[task.name]
    return Body(
        name,
        f"{summary}. Omitted fields take the model's defaults.",
        task.fields,
        lambda field: field.name in task.needs,
        Submission,
    )


#: The body of each task.
BODIES: dict[str, Body] = {name: _body(task) for name, task in TASKS.items()}
#: The bodies' schemas of the OpenAPI document, by name.
SCHEMAS: dict[str, dict[str, Any]] = {name: schema for body in BODIES.values() for name, schema in body.schemas.items()}
SCHEMAS["Txt2Img"]["examples"] = [{"prompt": "a red circle on a blue background", "seed": 7}]


def _add_route(task: Task) -> None:
    body, (_, summary, about) = BODIES[task.name], _ABOUT[task.name]

    async def make(request: Request, service: Generation, submit: Submit, memory: Memory) -> Response:
        async with memory.reserve(request.scope):
            # The upload is on disk afterwards, and not kept in memory while the client waits for its image.
            submitted = await _submitted(service, submit, task, await read_upload(request, body))
        return await answer(service, submit, submitted)

    router.add_api_route(
        f"/{task.name}",
        make,
        methods=["POST"],
        name=task.name,
        summary=summary,
        description=about,
        responses=MAKING,
        response_class=Response,
        openapi_extra=body.route,
    )


for _task in TASKS.values():
    _add_route(_task)
