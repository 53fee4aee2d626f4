"""What the calls that make jobs need besides their bodies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from server.api.dependencies import Client, Generation, Memory, Models
from server.api.sdapi.state import Remembered, Task


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


Call = Annotated[_Call, Depends()]
