"""The dialect's memory while the server runs: the model that clients have chosen, and the jobs that they wait for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from server.api.dependencies import Models
from server.events import OPEN
from server.jobs.job import Job
from server.jobs.queue import JobQueue

#: Tasks that are remembered after they have ended, so that clients learn of their end.
_MOST = 1000


@dataclass(frozen=True)
class Task:
    """A job by the id that its client chose (``force_task_id``), or else by the job's own."""

    id: str
    job_id: str
    client: str


class Tasks:
    """The dialect's jobs by their tasks' ids. Any thread may use it."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._open: dict[str, Task] = {}

    def add(self, task: Task) -> None:
        """Remember a task; a further one with the same id takes its place."""
        self._tasks.pop(task.id, None)  # it is the newest again
        self._tasks[task.id] = self._open[task.job_id] = task
        if len(self._tasks) > _MOST:
            self._tasks.pop(next(iter(self._tasks)), None)

    def end(self, job_id: str) -> None:
        """Note that a job has ended, so that it is not looked up again."""
        self._open.pop(job_id, None)

    def find(self, task_id: str) -> Task | None:
        """Return the newest task with this id."""
        return self._tasks.get(task_id)

    def waiting(self, queue: JobQueue) -> list[tuple[Task, Job]]:
        """Return the tasks that have not ended with their jobs: those that run, then the queued ones in their order."""
        found = []
        for task in list(self._open.values()):
            job = queue.job(task.job_id)
            if job is not None and job.status in OPEN:
                found.append((task, job))
            else:
                self.end(task.job_id)
        return sorted(found, key=lambda each: (each[1].status != "running", each[1].position or 0))


class State:
    """The dialect's memory; a server that starts has none.

    model: the model of requests that name none; None: the server's default one.
    """

    def __init__(self) -> None:
        self.model: str | None = None
        self.tasks = Tasks()


async def _state(request: Request) -> State:
    # Made at the first request: only this dialect knows of it.
    if not hasattr(request.app.state, "sdapi"):
        request.app.state.sdapi = State()
    state: State = request.app.state.sdapi
    return state


Remembered = Annotated[State, Depends(_state)]


def _current(models: Models, state: Remembered) -> str | None:
    # Not asynchronous, since a default that is not set is looked for in the models folder.
    return state.model or models.default


#: The name of the model of requests that name none; None if there is none yet.
Current = Annotated[str | None, Depends(_current)]
