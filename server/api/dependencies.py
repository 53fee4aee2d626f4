"""What routes depend on: the queue, the store, the models, and the client; and what they have in common in OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from server.jobs.queue import JobQueue
from server.jobs.store import JobStore
from server.models.installed import InstalledModels
from server.security.rate import client_of

Answers = dict[int | str, dict[str, Any]]

PNG: dict[str, Any] = {"image/png": {"schema": {"type": "string", "format": "binary"}}}


# Asynchronous, all of them: FastAPI runs a plain function in a thread, which takes longer than reading a job's row.
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
#: Clients take turns by address: a household's machines share one key.
Client = Annotated[str, Depends(_client)]
