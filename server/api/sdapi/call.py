"""The parts of the server that the calls which make jobs use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request

from server.api.dependencies import Client, Generation, Memory, Models
from server.api.errors import require
from server.api.refusal import Refusal
from server.api.sdapi.state import Remembered, Task
from server.jobs.job import Job

#: Why a job that is still open is waited for no longer.
_LATER = ("not_now", "disk_full")


@dataclass(frozen=True)
class _Call:
    """A request, who sent it, and the parts of the server that it needs."""

    request: Request
    service: Generation
    models: Models
    memory: Memory
    client: Client
    state: Remembered

    def remember(self, job_id: str, task_id: str | None = None) -> None:
        """Remember the job that the call makes, by its client's id for it."""
        self.state.tasks.add(Task(task_id or job_id, job_id, self.client))

    async def finished(self, job_id: str) -> Job:
        """Wait for the job; one that was interrupted counts as finished if it has an image. Raises ApiError."""
        outcome = await self.service.result(job_id)
        if not isinstance(outcome, Refusal) or outcome.reason not in _LATER:
            self.state.tasks.end(job_id)
        if isinstance(outcome, Refusal) and outcome.reason == "cancelled":
            job = self.service.job(job_id)
            if isinstance(job, Job) and job.images:
                return replace(job, notes=(*job.notes, "the job was interrupted before it had all its images"))
        return require(outcome)


Call = Annotated[_Call, Depends()]
