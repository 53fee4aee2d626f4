"""The metrics route for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response

from server.metrics import exposition

router = APIRouter(tags=["health"])

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"}
    },
    summary="The server's metrics",
)
def metrics() -> Response:
    """Counts the queue, step times, ended jobs, loaded models and conversions; identifies no job and no client."""
    return Response(exposition(), media_type=_TEXT)
