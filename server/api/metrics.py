"""Counters for Prometheus."""

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
    """Queue, step times, ended jobs, loaded models, conversions; nothing that identifies a job or client."""
    return Response(exposition(), media_type=_TEXT)
