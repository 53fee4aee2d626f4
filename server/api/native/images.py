"""The native API, /api/v1: pictures at once or as jobs."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from converter.folder import Manifest
from server.api.dependencies import PNG, Answers, Client, Models, Queue, Store
from server.api.native.errors import error
from server.api.native.jobs import found, job_response, picture
from server.api.native.schemas import (
    Img2Img,
    Img2ImgJson,
    JobOut,
    Txt2Img,
    job_url,
)
from server.api.native.upload import img2img_fields, json_only
from server.errors import ApiError
from server.jobs.job import OPEN, Submission
from server.jobs.queue import JobQueue, KeyReused, QueueFull
from server.jobs.store import JobStore
from server.models.installed import InstalledModels, UnknownModel
from server.pipeline.cost import cost
from server.pipeline.images import ImageError, decode_image
from server.pipeline.request import RequestError, make_request

router = APIRouter(prefix="/api/v1", tags=["native"])

_LONGEST_KEY = 200

_MAKING: Answers = {
    200: {
        "description": "The picture, once it is made; with n above 1, the finished job as JSON",
        "content": {**PNG, "application/json": {"schema": {"$ref": "#/components/schemas/JobOut"}}},
    },
    202: {"model": JobOut, "description": "The job, where the request says `Prefer: respond-async`"},
    400: error("The body cannot be parsed"),
    409: error("The job was cancelled before it was done"),
    404: error("The picture's file was taken out of the data folder"),
    410: error("The job has expired already"),
    413: error("The body is too large"),
    415: error("The body is of a type that is not accepted"),
    422: error("A field or header is not acceptable; the message names it"),
    429: error("Too many jobs wait, or too many requests came; Retry-After says when to come back"),
    500: error("The job failed"),
    503: error("The model is not known yet, or cannot be loaded; or the server is stopping, and keeps the job"),
}

Prefer = Annotated[list[str] | None, Header(description="`respond-async` answers 202 with a job at once (RFC 7240)")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description=f"Up to {_LONGEST_KEY} visible characters of your own: the same request with the same key is the same "
        "job, however often it is sent, until that job expires",
    ),
]
RetryCount = Annotated[
    str | None,
    Header(
        alias="X-Stainless-Retry-Count",
        description="Above 0, as OpenAI's SDK sends it: the same request is the job it was lately, without a key",
    ),
]


@dataclass(frozen=True)
class _Asked:
    """Who asks for a job, how the answer is wanted, and whether it was asked before."""

    client: Client
    prefer: Prefer = None
    key: Key = None
    retries: RetryCount = None


Asked = Annotated[_Asked, Depends()]


def _bound(queue: JobQueue, models: InstalledModels, name: str | None) -> tuple[str, Manifest]:
    """The installed model that ``name`` means, or the default one; raises what to answer where it is not there."""
    now = queue.readiness
    if now.state == "failed":
        raise ApiError(503, "model_failed", f"the model cannot be loaded: {now.message}")
    try:
        known = models.find(name if name is not None else models.default or "")
        return known, models.manifest(known)
    except UnknownModel as unknown:
        if name is not None and name != models.default:
            raise RequestError("model", name, f"{', '.join(models.names()) or 'none yet'}") from unknown
        percent = f", {100 * now.done // now.total} % done" if now.total else ""
        message = f"the model is not ready: {now.state}{percent}; see /readyz"
        raise ApiError(503, "not_ready", message, headers={"Retry-After": "5"}) from unknown


def _submission(
    asked: _Asked, path: str, fields: dict[str, Any], manifest: tuple[str, Manifest], image: bytes | None = None
) -> Submission:
    """The job that was asked for; raises RequestError and ApiError naming what is wrong."""
    if asked.key is not None and not (
        0 < len(asked.key) <= _LONGEST_KEY and asked.key.isascii() and asked.key.isprintable()
    ):
        raise RequestError("Idempotency-Key", asked.key, f"1 to {_LONGEST_KEY} visible ASCII characters")
    # Of what was sent, not of the request: a seed that is drawn would make every one another.
    sent = json.dumps([path, fields], sort_keys=True).encode() + hashlib.sha256(image or b"").digest()
    priority = fields.pop("priority")
    name, found = manifest
    retries = asked.retries or ""
    request = make_request(found, **{**fields, "model": name}, image=image)
    return Submission(
        request,
        cost(request, found),
        asked.client,
        priority,
        asked.key,
        hashlib.sha256(sent).hexdigest(),
        retries.isdecimal() and int(retries[:9]) > 0,
    )


def _wants_job(prefer: list[str] | None) -> bool:
    wishes = re.split(r"[,;]", ",".join(prefer or []))
    return any(wish.split("=")[0].strip().lower() == "respond-async" for wish in wishes)


async def _answer(submission: Submission, prefer: list[str] | None, queue: JobQueue, store: JobStore) -> Response:
    try:
        accepted = await run_in_threadpool(queue.submit, submission)
    except QueueFull as full:
        raise ApiError(429, "queue_full", str(full), headers={"Retry-After": str(full.retry_after)}) from full
    except KeyReused as reused:
        raise ApiError(422, "key_reused", str(reused), field="Idempotency-Key", value=submission.key) from reused
    job_id = accepted.job_id
    repeat = {"Idempotent-Replayed": "true"} if accepted.is_repeat else {}
    if _wants_job(prefer):
        headers = {"Location": job_url(job_id), "Preference-Applied": "respond-async", **repeat}
        return job_response(found(queue.job(job_id), job_id, store), 202, headers)
    job = found(await queue.wait(job_id), job_id, store)
    if job.status == "cancelled":
        raise ApiError(409, "cancelled", f"job {job_id} was cancelled before it was done")
    if job.status in OPEN:
        reason = queue.readiness.message or "the server is stopping"
        raise ApiError(503, "not_now", f"{reason}; job {job_id} is kept and runs once the server can")
    if job.failure is not None:
        # OpenAI's SDK would send it again twice; it would fail again, or be the failed job once more.
        raise ApiError(500, job.failure.code, job.failure.message, headers={"X-Should-Retry": "false"})
    headers = {"X-Anemone-Job": job_id, "Content-Location": job_url(job_id), **repeat}
    if len(job.images) > 1:
        return job_response(job, 200, headers)
    headers |= {"X-Anemone-Seed": str(job.images[0].seed)}
    png = await picture(job, job.images[0], queue, store)
    return Response(png, 200, headers, "image/png")


@router.post(
    "/txt2img",
    responses=_MAKING,
    response_class=Response,
    dependencies=[Depends(json_only)],
    summary="Make a picture from a prompt",
)
async def txt2img(
    body: Txt2Img, request: Request, queue: Queue, store: Store, models: Models, asked: Asked
) -> Response:
    """Answers with the PNG when it is made. With `Prefer: respond-async` it answers 202 with a job at once."""
    bound = _bound(queue, models, body.model)
    submission = _submission(asked, request.url.path, body.model_dump(), bound)
    return await _answer(submission, asked.prefer, queue, store)


def _form() -> dict[str, Any]:
    form = Img2ImgJson.model_json_schema()
    form["properties"]["image"] = {"type": "string", "format": "binary", "description": "PNG, JPEG or WebP"}
    form["title"], form["description"] = "Img2ImgForm", "img2img as a form with a file."
    return form


#: Schemas of the bodies that img2img reads itself, which FastAPI cannot see.
BODIES = {
    "Img2Img": Img2Img.model_json_schema(),
    "Img2ImgJson": Img2ImgJson.model_json_schema(),
    "Img2ImgForm": _form(),
}

_IMG2IMG_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"$ref": "#/components/schemas/Img2ImgForm"}},
            "application/json": {"schema": {"$ref": "#/components/schemas/Img2ImgJson"}},
        },
    }
}


@router.post(
    "/img2img",
    responses=_MAKING,
    response_class=Response,
    openapi_extra=_IMG2IMG_BODY,
    summary="Make a picture from a picture and a prompt",
)
async def img2img(request: Request, queue: Queue, store: Store, models: Models, asked: Asked) -> Response:
    """The picture comes as a multipart file or as base64 in JSON; it is scaled to cover the size and cut to it."""
    fields, image = await img2img_fields(request)
    bound = _bound(queue, models, fields["model"])
    submission = _submission(asked, request.url.path, fields, bound, image)
    try:
        await run_in_threadpool(decode_image, image)
    except ImageError as bad:
        raise ApiError(422, "invalid_image", f"image: {bad}", field="image") from bad
    return await _answer(submission, asked.prefer, queue, store)
