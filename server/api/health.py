"""Health routes: the HTTP process is alive; the server can make an image."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from server.api.dependencies import Keys, Queue
from server.api.dialect import OPEN

router = APIRouter(tags=["health"])


class HealthOut(BaseModel):
    """The HTTP process is alive."""

    status: str = "ok"


class ReadyOut(BaseModel):
    """The server's readiness, and its progress until it is ready."""

    ready: bool
    state: str = Field(description="starting, downloading, converting, verifying, loading, ready, paused or failed")
    network: str | None = Field(
        description="The network being converted or loaded, or the file being downloaded; null without the key"
    )
    done: int = Field(description="Bytes downloaded or converted, or networks loaded")
    total: int
    fraction: float | None = Field(description="done / total")
    message: str | None = Field(
        description="Why it failed, or why jobs are paused and what to do; only for requests with the key, because it may "
        "name files"
    )


@router.get("/healthz", openapi_extra=OPEN, summary="Check that the HTTP process is alive")
async def healthz() -> HealthOut:
    """Answers immediately, even while the model loads or runs."""
    return HealthOut()


@router.get(
    "/readyz",
    responses={
        429: {"description": "The request has a key, and its client sent too many wrong ones"},
        503: {"model": ReadyOut, "description": "Not ready yet or now, or the model cannot be loaded"},
    },
    openapi_extra=OPEN,
    summary="Check that the server can make an image",
)
async def readyz(request: Request, response: Response, queue: Queue, keys: Keys) -> ReadyOut:
    """Answers 200 once the model is loaded, and 503 with the progress until then.

    503 and `paused` while the disk or the job database cannot be used; jobs go on by themselves once that is over.
    Anyone may ask; what is being loaded, and why it failed, is for requests with the key.
    """
    readiness = queue.readiness
    ready = readiness.state == "ready"
    response.status_code = 200 if ready else 503
    progress, message = readiness.progress, readiness.message
    has_key = keys.authenticate(request.scope) == "right"
    if message is not None and not has_key:
        message = "the reason is in the server's log, and here for requests with the API key"
    fraction = round(progress.done / progress.total, 4) if progress is not None and progress.total else None
    return ReadyOut(
        ready=ready,
        state=readiness.state,
        network=progress.item if progress is not None and has_key else None,
        done=progress.done if progress is not None else 0,
        total=progress.total if progress is not None else 0,
        fraction=1.0 if ready else fraction,
        message=message,
    )
