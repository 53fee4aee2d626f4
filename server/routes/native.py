"""The native API, /api/v1: pictures at once or as jobs."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from converter import __version__
from converter.folder import Manifest
from server.errors import ApiError, ErrorBody
from server.jobs.job import OPEN, Job
from server.jobs.queue import JobQueue
from server.jobs.request import DEFAULT_STRENGTH, GenerationRequest, make_request
from server.jobs.store import JobStore
from server.pipeline.images import ImageError, decode_image
from server.pipeline.schedulers import SCHEDULERS
from server.routes.upload import img2img_fields, media_type
from server.routes.wire import (
    CapabilitiesOut,
    DefaultsOut,
    JobOut,
    JobsOut,
    LimitsOut,
    ModelOut,
    SizeOut,
    Txt2Img,
    job_out,
    job_url,
)

router = APIRouter(prefix="/api/v1", tags=["native"])

_PNG: dict[str, Any] = {"image/png": {"schema": {"type": "string", "format": "binary"}}}


def _error(description: str) -> dict[str, Any]:
    return {"model": ErrorBody, "description": description}


_FORBIDDEN: dict[int | str, dict[str, Any]] = {403: _error("Wrong Host, or a page of another site")}
_ABSENT = {**_FORBIDDEN, 404: _error("There is no such job or picture"), 422: _error("The number is not one")}
_MAKING: dict[int | str, dict[str, Any]] = {
    **_FORBIDDEN,
    200: {
        "description": "The picture, once it is made; with n above 1, the finished job as JSON",
        "content": {**_PNG, "application/json": {"schema": {"$ref": "#/components/schemas/JobOut"}}},
    },
    202: {"model": JobOut, "description": "The job, where the request says `Prefer: respond-async`"},
    400: _error("The body cannot be parsed"),
    409: _error("The job was cancelled before it was done"),
    413: _error("The body is too large"),
    415: _error("The body is of a type that is not accepted"),
    422: _error("A field is not acceptable; the message names it"),
    500: _error("The job failed"),
    503: _error("The model is not known yet, or cannot be loaded"),
}


def _queue(request: Request) -> JobQueue:
    queue: JobQueue = request.app.state.queue
    return queue


def _store(request: Request) -> JobStore:
    store: JobStore = request.app.state.store
    return store


Queue = Annotated[JobQueue, Depends(_queue)]
Store = Annotated[JobStore, Depends(_store)]
Prefer = Annotated[list[str] | None, Header(description="`respond-async` answers 202 with a job at once (RFC 7240)")]


def _manifest(queue: JobQueue) -> Manifest:
    now = queue.readiness
    if now.state == "failed":
        raise ApiError(503, "model_failed", f"the model cannot be loaded: {now.message}")
    if now.manifest is None:
        percent = f", {100 * now.done // now.total} % done" if now.total else ""
        message = f"the model is not ready: {now.state}{percent}; see /readyz"
        raise ApiError(503, "not_ready", message, headers={"Retry-After": "5"})
    return now.manifest


def _wants_job(prefer: list[str] | None) -> bool:
    wishes = re.split(r"[,;]", ",".join(prefer or []))
    return any(wish.split("=")[0].strip().lower() == "respond-async" for wish in wishes)


async def _answer(request: GenerationRequest, prefer: list[str] | None, queue: JobQueue, store: JobStore) -> Response:
    job_id = await run_in_threadpool(queue.submit, request)
    if _wants_job(prefer):
        headers = {"Location": job_url(job_id), "Preference-Applied": "respond-async"}
        job = _found(queue.job(job_id), job_id)
        return Response(job_out(job).model_dump_json(), 202, headers, "application/json")
    job = _found(await queue.wait(job_id), job_id)
    if job.status == "cancelled":
        raise ApiError(409, "cancelled", f"job {job_id} was cancelled before it was done")
    if job.status in OPEN:
        message = f"{queue.readiness.message}; job {job_id} is kept and runs once the server can"
        raise ApiError(503, "model_failed", message)
    if job.failure is not None:
        raise ApiError(500, job.failure.code, job.failure.message)
    headers = {"X-Anemone-Job": job_id, "Content-Location": job_url(job_id)}
    if len(job.images) > 1:
        return Response(job_out(job).model_dump_json(), 200, headers, "application/json")
    headers |= {"X-Anemone-Seed": str(job.images[0].seed)}
    png = await run_in_threadpool(store.image_path(job.images[0]).read_bytes)
    return Response(png, 200, headers, "image/png")


def _json_only(request: Request) -> None:
    kind = media_type(request)
    if kind != "application/json":
        raise ApiError(415, "wrong_type", f"the body is {kind[:80] or 'untyped'}; accepted: application/json")


@router.post(
    "/txt2img",
    responses=_MAKING,
    response_class=Response,
    dependencies=[Depends(_json_only)],
    summary="Make a picture from a prompt",
)
async def txt2img(body: Txt2Img, queue: Queue, store: Store, prefer: Prefer = None) -> Response:
    """Answers with the PNG when it is made. With `Prefer: respond-async` it answers 202 with a job at once."""
    request = make_request(_manifest(queue), **body.model_dump())
    return await _answer(request, prefer, queue, store)


_IMG2IMG_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "allOf": [{"$ref": "#/components/schemas/Img2Img"}],
                    "type": "object",
                    "required": ["prompt", "image"],
                    "properties": {"image": {"type": "string", "format": "binary", "description": "PNG, JPEG or WebP"}},
                }
            },
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
async def img2img(request: Request, queue: Queue, store: Store, prefer: Prefer = None) -> Response:
    """The picture comes as a multipart file or as base64 in JSON; it is scaled to cover the size and cut to it."""
    fields, image = await img2img_fields(request)
    made = make_request(_manifest(queue), **fields, image=image)
    try:
        await run_in_threadpool(decode_image, image)
    except ImageError as error:
        raise ApiError(422, "invalid_image", f"image: {error}", field="image") from error
    return await _answer(made, prefer, queue, store)


def _found(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise ApiError(404, "no_such_job", f"there is no job {job_id[:40]!r}")
    return job


@router.get("/jobs", responses=_FORBIDDEN, summary="The newest jobs")
def jobs(store: Store, queue: Queue) -> JobsOut:
    """Up to a hundred, newest first."""
    return JobsOut(jobs=[job_out(queue.job(j.id) or j) for j in store.recent(100)])


@router.get("/jobs/{job_id}", responses=_ABSENT, summary="A job as it stands")
def job(job_id: str, queue: Queue) -> JobOut:
    """Its status, progress, pictures and error."""
    return job_out(_found(queue.job(job_id), job_id))


@router.delete("/jobs/{job_id}", responses=_ABSENT, summary="Cancel a job")
def cancel(job_id: str, queue: Queue) -> JobOut:
    """A queued job is cancelled at once, a running one after the step it is in; one that is over stays as it is."""
    return job_out(_found(queue.cancel(job_id), job_id))


@router.get(
    "/jobs/{job_id}/images/{index}",
    responses={200: {"content": _PNG}, **_ABSENT},
    response_class=Response,
    summary="A job's picture",
)
def job_image(job_id: str, index: int, queue: Queue, store: Store) -> Response:
    """The PNG, whose `parameters` text says how to make it again. Pictures are numbered from 0."""
    found = _found(queue.job(job_id), job_id)
    image = next((i for i in found.images if i.index == index), None)
    if image is None:
        message = f"job {job_id} ({found.status}) has {len(found.images)} pictures; there is no {index}"
        raise ApiError(404, "no_such_image", message)
    path = store.image_path(image)
    if not path.is_file():
        raise ApiError(
            404, "no_such_image", f"the file of picture {index} of job {job_id} is gone from the data folder"
        )
    return Response(path.read_bytes(), media_type="image/png")


@router.get("/capabilities", responses=_FORBIDDEN, summary="What this server can do")
def capabilities(queue: Queue) -> CapabilitiesOut:
    """The model, its sizes and defaults, schedulers and limits."""
    manifest = queue.readiness.manifest
    model = defaults = None
    if manifest is not None:
        sizes = [SizeOut(width=w, height=h) for w, h in manifest.sizes]
        model = ModelOut(
            name=manifest.name,
            family=manifest.family,
            prediction_type=manifest.prediction_type,
            attention=manifest.attention,
            precision=manifest.precision,
            sizes=sizes,
            source_sha256=manifest.source.sha256,
        )
        defaults = DefaultsOut(
            width=sizes[0].width,
            height=sizes[0].height,
            steps=manifest.defaults.steps,
            guidance_scale=manifest.defaults.guidance_scale,
            scheduler=manifest.defaults.scheduler,
            strength=DEFAULT_STRENGTH,
        )
    return CapabilitiesOut(
        version=__version__, model=model, defaults=defaults, schedulers=list(SCHEDULERS), limits=LimitsOut()
    )
