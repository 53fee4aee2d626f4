"""The progress of the dialect's jobs, and their interruption."""

from __future__ import annotations

import base64
import io

from fastapi import APIRouter, Request
from PIL import Image
from pydantic import BaseModel, Field

from server.api.dependencies import Client, Generation, Queue
from server.api.sdapi import PREFIX
from server.api.sdapi.bodies import Body, Flag, Name, read_body, route_of
from server.api.sdapi.errors import BAD_BODY
from server.api.sdapi.info import timestamp
from server.api.sdapi.state import Remembered, State, Task
from server.jobs.job import Job
from server.jobs.queue import JobQueue
from server.pipeline.limits import Whole

router = APIRouter(prefix=PREFIX, tags=["automatic1111"])
internal = APIRouter(prefix="/internal", tags=["automatic1111"])

#: The progress of a job that has made no step yet: clients take 0 for an idle server.
_BEGUN = 0.01


class StateOut(BaseModel):
    """The running job's state. ``job_count`` is 0 if no job of this API runs or waits."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class ProgressOut(BaseModel):
    """The progress of this API's running job; 0 if no job runs."""

    progress: float = Field(description="0 to 1")
    eta_relative: float = Field(description="Seconds until it ends")
    state: StateOut
    current_image: str | None = Field(description="A preview: a PNG as base64")
    textinfo: str | None


class TaskBody(Body):
    """A question about a task."""

    id_task: Name | None = Field(None, description="The request's `force_task_id`, or else its job's id")
    id_live_preview: Whole | None = Field(None, description="The preview that the client has")
    live_preview: Flag | None = Field(None, description="false: without a preview")


class TaskOut(BaseModel):
    """The progress of a task."""

    active: bool
    queued: bool
    completed: bool
    progress: float | None = None
    eta: float | None = None
    live_preview: str | None = Field(None, description="A data: URI, if it is another than the client has")
    id_live_preview: int
    textinfo: str | None = Field(None, examples=["In queue: 2/5"])


class PendingOut(BaseModel):
    """The tasks that wait."""

    size: int
    tasks: list[str]


def _state_of(job: Job) -> StateOut:
    return StateOut(
        job=job.id,
        job_count=1 if job.request is None else job.request.images,
        job_timestamp=timestamp(job.created),
        job_no=job.image or 0,
        sampling_step=job.step or 0,
        sampling_steps=job.steps or 0,
    )


def _png(preview: bytes | None) -> str | None:
    if preview is None:
        return None
    file = io.BytesIO()
    with Image.open(io.BytesIO(preview), formats=["JPEG"]) as image:
        image.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def _queued(waiting: list[tuple[Task, Job]]) -> list[Task]:
    return [task for task, job in waiting if job.status == "queued"]


def _place(task: Task, waiting: list[tuple[Task, Job]]) -> str:
    queued = _queued(waiting)
    return f"In queue: {queued.index(task) + 1}/{len(queued)}" if task in queued else "Queued..."


@router.get("/progress", summary="Get the progress of the running job")
def progress(queue: Queue, state: Remembered, skip_current_image: bool = False) -> ProgressOut:
    """Returns the progress of this API's running job; jobs of other APIs do not count. `skip_current_image`: no preview."""
    waiting = state.tasks.waiting(queue)
    if not waiting:
        return ProgressOut(progress=0.0, eta_relative=0.0, state=StateOut(), current_image=None, textinfo=None)
    task, job = waiting[0]
    runs = job.status == "running"
    return ProgressOut(
        progress=max(_BEGUN, job.fraction) if runs else 0.0,
        eta_relative=job.eta or 0.0,
        state=_state_of(job),
        current_image=_png(queue.preview(job.id)) if runs and not skip_current_image else None,
        textinfo=job.paused or (None if runs else _place(task, waiting)),
    )


def to_interrupt(queue: JobQueue, state: Remembered, client: str) -> Task | None:
    """Return the task to interrupt: the client's own that runs or waits first, or else the one that runs."""
    waiting = state.tasks.waiting(queue)
    own = (task for task, _ in waiting if task.client == client)
    running = (task for task, job in waiting if job.status == "running")
    return next(own, None) or next(running, None)


@router.post("/interrupt", summary="Interrupt the running job")
def interrupt(queue: Queue, service: Generation, state: Remembered, client: Client) -> None:
    """Cancels this client's job of this API that runs or waits first, or else the one that runs. Answers `null`."""
    task = to_interrupt(queue, state, client)
    if task is not None:
        service.cancel(task.job_id)


@router.post("/skip", summary="Skip the running job")
def skip(queue: Queue, service: Generation, state: Remembered, client: Client) -> None:
    """Does as interrupt does: a job's images are not skipped one by one. Answers `null`."""
    interrupt(queue, service, state, client)


@internal.post(
    "/progress",
    responses=BAD_BODY,
    openapi_extra=route_of(TaskBody, images=False),
    summary="Get the progress of a task",
)
async def task_progress(request: Request, queue: Queue, state: Remembered) -> TaskOut:
    """Returns how far the task with a client's own id is."""
    return _told(await read_body(request, TaskBody), queue, state)


def _told(body: TaskBody, queue: JobQueue, state: State) -> TaskOut:
    task = state.tasks.find(body.id_task or "")
    job = None if task is None else queue.job(task.job_id)
    if task is None or job is None or job.status != "running":
        queued = job is not None and job.status == "queued"
        return TaskOut(
            active=False,
            queued=queued,
            completed=job is not None and not queued,
            id_live_preview=-1,
            textinfo=_place(task, state.tasks.waiting(queue)) if queued and task is not None else "Waiting...",
        )
    known, newest = body.id_live_preview, job.steps_done
    preview = queue.preview(job.id) if body.live_preview is not False and newest != known else None
    return TaskOut(
        active=True,
        queued=False,
        completed=False,
        progress=job.fraction,
        eta=job.eta,
        live_preview=None if preview is None else f"data:image/jpeg;base64,{base64.b64encode(preview).decode()}",
        id_live_preview=newest if preview is not None else (-1 if known is None else known),
    )


@internal.get("/pending-tasks", summary="List the tasks that wait")
def pending_tasks(queue: Queue, state: Remembered) -> PendingOut:
    """Returns the ids of the queued tasks of this API, the next one first."""
    queued = _queued(state.tasks.waiting(queue))
    return PendingOut(size=len(queued), tasks=[task.id for task in queued])
