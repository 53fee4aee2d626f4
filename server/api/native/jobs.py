"""The native API's jobs: list, get, watch, cancel and delete them; get their images."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from server.api.dependencies import Answers, Generation, Queue
from server.api.errors import require
from server.api.native import PREFIX
from server.api.native.errors import error
from server.api.native.image_answer import (
    CONTENT,
    NOT_ACCEPTABLE,
    Asked,
    KnownTags,
    has_tag,
    image_headers,
    image_tag,
)
from server.api.native.schemas import (
    JobErrorOut,
    JobImageOut,
    JobOut,
    JobsOut,
    PreparingOut,
    ProgressOut,
    SizeOut,
    TimingsOut,
    colors_out,
)
from server.api.sse import Snapshot, TakeSnapshot, add_event_route
from server.events import OPEN, Status
from server.jobs.job import Job
from server.jobs.queue import JobQueue
from server.pipeline.limits import FIRST_ONLY
from server.pipeline.request import Extent, GenerationRequest
from server.pipeline.request.output import Output

router = APIRouter(prefix=PREFIX, tags=["jobs"])

#: Greatest and default number of jobs on a page.
_MOST, _USUAL = 100, 50
_Statuses = Annotated[list[Status], FIRST_ONLY, Field(max_length=20)]
#: Jobs that are read at once, and bytes of requests after which a page ends. A request may have 80 KB: 448 answers of a
#: hundred of them that nobody took were 2.5 GB.
_AT_ONCE, _LONGEST_PAGE = 20, 256 * 2**10
#: Within the range of SQLite's integers.
_LARGEST = 2**62

_ABSENT: Answers = {
    404: error("The job or image does not exist, or the image's file is missing or damaged"),
    410: error("The job has expired"),
    422: error("A parameter is not accepted; the message names it"),
}


def job_url(job_id: str) -> str:
    """Return the path of a job."""
    return f"{PREFIX}/jobs/{job_id}"


def _size_out(size: Extent) -> SizeOut:
    return SizeOut(width=size.width, height=size.height)


def job_out(job: Job) -> JobOut:
    """Return the job as a response body."""
    progress = None
    if job.step is not None and job.steps and job.image is not None and job.request is not None:
        progress = ProgressOut(image=job.image, step=job.step, steps=job.steps, fraction=round(job.fraction, 4))
    preparing = job.preparing
    waits = (
        None
        if preparing is None
        else PreparingOut(stage=preparing.stage, item=preparing.item, done=preparing.done, total=preparing.total)
    )
    reference = job.request.palette if isinstance(job.request, GenerationRequest) else None
    colors = None if reference is None else reference.palette_colors
    url = job_url(job.id)
    until = job.finished or time.time()
    timings = TimingsOut(
        queued=round(max(0.0, (job.started or until) - job.created), 3),
        running=None if job.started is None else round(max(0.0, until - job.started), 3),
        step=round(job.step_seconds / job.steps_done, 4) if job.steps_done else None,
    )
    return JobOut(
        id=job.id,
        status=job.status,
        model=job.model,
        priority=job.priority,
        url=url,
        task=None if job.request is None else job.request.task,
        size=None if job.request is None else _size_out(job.request.result),
        computed=None if job.request is None else _size_out(job.request.computed),
        request=job.request.values() if job.request is not None else {},
        position=job.position,
        eta=None if job.eta is None else round(job.eta, 3),
        paused=job.paused,
        progress=progress,
        preparing=waits,
        notes=list(job.notes),
        palette=None if colors is None else colors_out(colors),
        images=[
            JobImageOut(index=i.index, seed=i.seed, url=f"{url}/images/{i.index}", flagged=i.flagged)
            for i in job.images
        ],
        error=JobErrorOut(code=job.failure.code, message=job.failure.message) if job.failure else None,
        created=job.created,
        started=job.started,
        finished=job.finished,
        timings=timings,
        attempts=job.attempts,
    )


def job_response(job: Job, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with a job."""
    # Bypasses FastAPI, which would validate every field again: clients poll jobs often.
    return Response(job_out(job).model_dump_json(), status, headers, "application/json")


def _page(
    queue: JobQueue, limit: int, before: int | None, statuses: tuple[Status, ...], model: str | None
) -> tuple[list[Job], bool]:
    """Return up to ``limit`` jobs, fewer if their requests are long, and whether more may follow."""
    page: list[Job] = []
    size = 0
    while len(page) <= limit and size < _LONGEST_PAGE:
        wanted = min(_AT_ONCE, limit + 1 - len(page))
        part = queue.jobs(wanted, page[-1].number if page else before, statuses, model)
        page += part
        if len(part) < wanted:
            return page, False
        size += sum(len(job.request.model_dump_json().encode()) for job in part if job.request is not None)
    return page[:limit], True


@router.get("/jobs", responses={422: _ABSENT[422]}, summary="List jobs, the newest first")
def jobs(
    queue: Queue,
    status: Annotated[_Statuses | None, Query(description="Only jobs with this status; may be repeated")] = None,
    model: Annotated[str | None, Query(max_length=255, description="Only jobs of this model")] = None,
    before: Annotated[int | None, Query(ge=0, le=_LARGEST, description="`next` of the page before this one")] = None,
    limit: Annotated[int, Query(ge=1, le=_MOST, description="The most jobs on this page")] = _USUAL,
) -> JobsOut:
    """Returns a page of jobs; of jobs with long prompts it has fewer than `limit`.

    If `next` is not null, send it as `before` to get the following page.
    """
    page, more = _page(queue, limit, before, tuple(status or ()), model)
    return JobsOut(jobs=[job_out(job) for job in page], next=page[-1].number if more else None)


@router.get("/jobs/{job_id}", response_model=JobOut, response_class=Response, responses=_ABSENT, summary="Get a job")
async def job(job_id: str, service: Generation) -> Response:
    """Returns the job's status, position, progress, estimated time, images and error."""
    # Runs in the event loop: reading a row takes less time than switching to a thread and back.
    return job_response(require(service.job(job_id)))


@router.delete("/jobs/{job_id}", response_model=JobOut, responses=_ABSENT, summary="Cancel a job")
def cancel(job_id: str, service: Generation) -> Response:
    """Cancels a queued job immediately and a running one after the present call of a network; a finished job is unchanged."""
    return job_response(require(service.cancel(job_id)))


@router.get(
    "/jobs/{job_id}/images/{index}",
    responses={
        200: {"content": CONTENT, "description": "The image"},
        304: {"description": "The client has this image: `If-None-Match` names its ETag"},
        **NOT_ACCEPTABLE,
        **_ABSENT,
    },
    response_class=Response,
    summary="Get a job's image",
)
async def job_image(
    job_id: str, index: int, service: Generation, asked: Asked, known_tags: KnownTags = None
) -> Response:
    """Returns the image as PNG, JPEG or WebP; its parameters say how to make it again on this machine.

    Images are numbered from 0. They are stored as PNG, without loss, and encoded for each answer.
    """
    job = require(service.job(job_id))
    image = require(service.stored_image(job, index))
    encoding = asked.encoding(Output() if job.request is None else job.request.output)
    tag = image_tag(image, encoding)
    headers = {"ETag": tag, **image_headers(job, image, encoding)}
    if has_tag(known_tags, tag):
        return Response(status_code=304, headers=headers)
    data = require(await service.image(job, image, encoding.to, encoding.quality))
    return Response(data, 200, headers, encoding.to.media_type)


@router.delete(
    "/jobs/{job_id}/images",
    status_code=204,
    responses={**_ABSENT, 409: error("The job is queued or running")},
    summary="Delete a job with its images",
)
def delete(job_id: str, service: Generation) -> None:
    """Deletes a job that has ended, and the files of its images; afterwards it answers 410, as one that has expired."""
    require(service.delete(job_id))


async def _snapshots(service: Generation) -> TakeSnapshot:
    def take(job_id: str) -> Snapshot:
        job = require(service.job(job_id))
        return Snapshot(job_out(job), is_open=job.status in OPEN)

    return take


_EVENTS = (
    "`state` events contain the job as `GET /api/v1/jobs/{id}` returns it; `progress` events contain a step: `image` (from "
    "0), `step` of `steps`, `fraction` of the whole job, `eta` in seconds or null, and `preview`, a small JPEG in base64 or "
    "null. The server sends comments while nothing happens."
)
add_event_route(router, "/jobs/{job_id}/events", "job", _snapshots, about=_EVENTS, absent=_ABSENT)
