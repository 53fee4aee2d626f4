"""What routes are given: the queue, the store, the models, and who asks; and how their errors are documented."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from server.api.errors import ErrorBody
from server.jobs.queue import JobQueue
from server.jobs.store import JobStore
from server.models.installed import InstalledModels
from server.security.rate import client_of

Answers = dict[int | str, dict[str, Any]]

PNG: dict[str, Any] = {"image/png": {"schema": {"type": "string", "format": "binary"}}}


def error(description: str) -> dict[str, Any]:
    """An error in a route's ``responses``."""
    return {"model": ErrorBody, "description": description}


# Asynchronous, all of them: FastAPI takes a plain function to a thread and back, which is longer than a job's row takes.
async def _queue(request: Request) -> JobQueue:
    queue: JobQueue = request.app.state.queue
    return queue


async def _store(request: Request) -> JobStore:
    store: JobStore = request.app.state.store
    return store


async def _models(request: Request) -> InstalledModels:
    models: InstalledModels = request.app.state.models
    return models


async def _client(request: Request) -> str:
    return client_of(request.scope)


Queue = Annotated[JobQueue, Depends(_queue)]
Store = Annotated[JobStore, Depends(_store)]
Models = Annotated[InstalledModels, Depends(_models)]
#: Whose turn it is goes by address: a household's machines share one key.
Client = Annotated[str, Depends(_client)]
