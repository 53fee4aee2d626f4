"""The native API's jobs: listed, looked at, watched, cancelled; their pictures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from server.api.dependencies import PNG, Answers, Queue, Store
from server.api.native.errors import error
from server.api.native.schemas import JobOut, JobsOut, job_out
from server.api.sse import Standing, watch
from server.errors import ApiError
from server.events import Subscription
from server.jobs.job import OPEN, Job, JobImage, Status
from server.jobs.queue import JobQueue
from server.jobs.store import JobStore

router = APIRouter(prefix="/api/v1", tags=["jobs"])

#: Jobs on a page.
_MOST, _USUAL = 100, 50
#: What SQLite keeps in an integer.
_LARGEST = 2**62

_ABSENT: Answers = {
    404: error("There is no such job or picture"),
    410: error("There was such a job; its time, or the room for pictures, is over"),
    422: error("A parameter is not acceptable; the message names it"),
}


def found(job: Job | None, job_id: str, store: JobStore) -> Job:
    """The job; raises ApiError 404 where there is none, 410 where it has expired."""
    if job is not None:
        return job
    if store.is_expired(job_id):
        raise ApiError(
            410, "expired", f"job {job_id} and its pictures were deleted: they were too old, or took too much room"
        )
    raise ApiError(404, "no_such_job", f"there is no job {job_id[:40]!r}")


def job_response(job: Job, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A job as the whole answer."""
    # Written here and not by FastAPI, which would check it field by field once more: clients ask for jobs all the time.
    return Response(job_out(job).model_dump_json(), status, headers, "application/json")


async def picture(job: Job, image: JobImage, queue: JobQueue, store: JobStore) -> bytes:
    """A job's picture; raises ApiError where its file is gone, 410 if the job expired in this very moment."""
    try:
        return await run_in_threadpool(store.image_path(image).read_bytes)
    except FileNotFoundError as missing:
        found(queue.job(job.id), job.id, store)
        message = f"the file of picture {image.index} of job {job.id} is gone from the data folder"
        raise ApiError(404, "no_such_image", message) from missing


@router.get("/jobs", responses={422: _ABSENT[422]}, summary="Jobs, the newest first")
def jobs(
    queue: Queue,
    status: Annotated[
        list[Status] | None, Query(description="Only jobs of this status; may be given several times")
    ] = None,
    model: Annotated[str | None, Query(description="Only jobs of this model")] = None,
    before: Annotated[int | None, Query(ge=0, le=_LARGEST, description="`next` of the page before this one")] = None,
    limit: Annotated[int, Query(ge=1, le=_MOST, description="Jobs on this page")] = _USUAL,
) -> JobsOut:
    """A page of them; `next`, where it is not null, is the `before` of the following page."""
    page = queue.jobs(limit + 1, before, tuple(status or ()), model)
    following = page[limit - 1].number if len(page) > limit else None
    return JobsOut(jobs=[job_out(job) for job in page[:limit]], next=following)


@router.get(
    "/jobs/{job_id}", response_model=JobOut, response_class=Response, responses=_ABSENT, summary="A job as it stands"
)
async def job(job_id: str, queue: Queue, store: Store) -> Response:
    """Its status, place, progress, estimated time, pictures and error."""
    # Not in a thread: reading a row takes less time than going to one and back.
    return job_response(found(queue.job(job_id), job_id, store))


@router.delete("/jobs/{job_id}", response_model=JobOut, responses=_ABSENT, summary="Cancel a job")
def cancel(job_id: str, queue: Queue, store: Store) -> Response:
    """A queued job is cancelled at once, a running one after the step it is in; one that is over stays as it is."""
    return job_response(found(queue.cancel(job_id), job_id, store))


async def _watched(
    job_id: str,
    queue: Queue,
    store: Store,
    last_event_id: Annotated[
        int | None, Header(description="The id of the last event seen; what came after it is sent first")
    ] = None,
) -> AsyncIterator[Subscription]:
    events = queue.events.subscribe(job_id, last_event_id)
    try:
        found(queue.job(job_id), job_id, store)
        yield events
    finally:
        events.close()


_STREAM: Answers = {
    200: {
        "description": "`state` events hold the job as `GET /api/v1/jobs/{id}` gives it, `progress` events a step: "
        "`image` (from 0), `step` of `steps`, `fraction` of the whole job, `eta` in seconds or null, and `preview`, a "
        "small JPEG in base64 or null. Comments come while nothing happens.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **_ABSENT,
}


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses=_STREAM,
    summary="Watch a job (Server-Sent Events)",
)
async def events(
    job_id: str, queue: Queue, watched: Annotated[Subscription, Depends(_watched)]
) -> AsyncIterator[ServerSentEvent]:
    """Begins with the job as it stands, or where `Last-Event-ID` says, and ends after the state in which it is over."""

    def standing() -> Standing | None:
        job = queue.job(job_id)
        return None if job is None else Standing(job_out(job), job.status in OPEN)

    async for event in watch(watched, standing):
        yield event


@router.get(
    "/jobs/{job_id}/images/{index}",
    responses={200: {"content": PNG, "description": "The picture"}, **_ABSENT},
    response_class=Response,
    summary="A job's picture",
)
async def job_image(job_id: str, index: int, queue: Queue, store: Store) -> Response:
    """The PNG, whose `parameters` text says how to make it again on this machine. Images are numbered from 0."""
    job = found(queue.job(job_id), job_id, store)
    image = next((i for i in job.images if i.index == index), None)
    if image is None:
        message = f"job {job_id} ({job.status}) has {len(job.images)} pictures; there is no {index}"
        raise ApiError(404, "no_such_image", message)
    png = await picture(job, image, queue, store)
    return Response(png, media_type="image/png")
