"""Dependencies of routes: the service, the queue, the models and the client; and shared parts of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Request

from server.api.service import Service
from server.api.submission import LONGEST_KEY
from server.api.upload_memory import UploadMemory
from server.errors import ApiError
from server.jobs.queue import JobQueue
from server.models.installed import InstalledModels
from server.models.loras import Addons
from server.security.key import Authenticator
from server.security.rate import client_of

Answers = dict[int | str, dict[str, Any]]


# All are asynchronous: FastAPI runs a plain function in a thread, which takes longer than reading a job's row.
async def _queue(request: Request) -> JobQueue:
    queue: JobQueue = request.app.state.queue
    return queue


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _models(request: Request) -> InstalledModels:
    models: InstalledModels = request.app.state.models
    return models


async def _addons(request: Request) -> Addons:
    addons: Addons = request.app.state.addons
    return addons


async def _client(request: Request) -> str:
    return client_of(request.scope)


async def _authenticator(request: Request) -> Authenticator:
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator


async def _upload_memory(request: Request) -> UploadMemory:
    memory: UploadMemory = request.app.state.upload_memory
    return memory


Queue = Annotated[JobQueue, Depends(_queue)]
Generation = Annotated[Service, Depends(_service)]
Models = Annotated[InstalledModels, Depends(_models)]
AllAddons = Annotated[Addons, Depends(_addons)]
Memory = Annotated[UploadMemory, Depends(_upload_memory)]
Keys = Annotated[Authenticator, Depends(_authenticator)]
#: Clients take turns by address: a household's machines share one key.
Client = Annotated[str, Depends(_client)]


async def _idempotency_key(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description=f"Up to {LONGEST_KEY} visible characters of your own: the same request with the same key is the same "
            "job, however often it is sent, until that job expires",
        ),
    ] = None,
) -> str | None:
    if len(request.headers.getlist("Idempotency-Key")) > 1:
        message = "Idempotency-Key is in the request more than once; accepted: once"
        raise ApiError(422, "repeated_field", message, field="Idempotency-Key", accepted="once")
    return key


IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]
RetryCount = Annotated[
    str | None,
    Header(
        alias="X-Stainless-Retry-Count",
        description="Above 0, as OpenAI's SDK sends it: a request identical to one of the last hour is the same job, also "
        "without a key",
    ),
]


def is_retry(count: str | None) -> bool:
    """Return whether a retry count is a number above 0: the client has sent the request before."""
    return count is not None and count.isdecimal() and int(count[:9]) > 0
