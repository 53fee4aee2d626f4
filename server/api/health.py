"""Is it alive, can it make a picture."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from server.api.native.schemas import HealthOut, ReadyOut
from server.jobs.queue import JobQueue

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the HTTP side is alive")
async def healthz() -> HealthOut:
    """Answers at once, whatever the model is doing."""
    return HealthOut()


@router.get(
    "/readyz",
    responses={503: {"model": ReadyOut, "description": "Not yet, or never"}},
    summary="Whether it can make a picture",
)
async def readyz(request: Request, response: Response) -> ReadyOut:
    """200 once the model is loaded; until then 503, saying how far it is."""
    queue: JobQueue = request.app.state.queue
    now = queue.readiness
    ready = now.state == "ready"
    response.status_code = 200 if ready else 503
    fraction = round(now.done / now.total, 4) if now.total else None
    return ReadyOut(
        ready=ready,
        state=now.state,
        network=now.network,
        done=now.done,
        total=now.total,
        fraction=1.0 if ready else fraction,
        message=now.message,
    )
