"""A job's progress, told to the client that waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio

from server.api.mcp.reply import before, left
from server.events import Subscription
from server.jobs.job import Job
from server.jobs.queue import JobQueue

#: Tells the steps that are done, how many there are (None: unknown yet), and a sentence.
OnProgress: TypeAlias = Callable[[float, float | None, str], Awaitable[None]]


@asynccontextmanager
async def follow(queue: JobQueue, job: Job, on_progress: OnProgress | None) -> AsyncIterator[None]:
    """Tell a job's progress during the block, which raises nothing: it would come out in a group."""
    if on_progress is None or job.request is None:
        yield
        return
    events = queue.events.subscribe(job.id)
    try:
        if job.position is not None:
            await on_progress(0, None, f"queued, {before(job.position)}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_tell, events, job.request.images, on_progress)
            yield
            tasks.cancel_scope.cancel()
    finally:
        events.close()


async def _tell(events: Subscription, images: int, on_progress: OnProgress) -> None:
    told = 0
    async for event in events:
        if event.kind != "progress":
            continue
        done, total = _steps(event.data, images)
        # Each must be more than the one before: a job that starts again after a crash is silent until it is as far again.
        if done > told:
            told = done
            await on_progress(done, total, _sentence(event.data, images))


def _steps(data: dict[str, Any], images: int) -> tuple[int, int]:
    """Return how many steps are done, over all images, and how many there are."""
    return data["image"] * data["steps"] + data["step"], images * data["steps"]


def _sentence(data: dict[str, Any], images: int) -> str:
    of_images = f"image {data['image'] + 1} of {images}, " if images > 1 else ""
    return f"{of_images}step {data['step']} of {data['steps']}{left(data['eta'])}"
