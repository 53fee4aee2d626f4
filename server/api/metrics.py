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
    summary="What the server has counted",
)
def metrics() -> Response:
    """Queue, step times, ended jobs, loaded models, conversions. Nothing in it tells one job or client from another."""
    return Response(exposition(), media_type=_TEXT)
