"""Requests of every kind, as jobs have them and as they are stored."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from server.pipeline.limits import STORED
from server.pipeline.request.request import GenerationRequest
from server.pipeline.request.upscale import UpscaleRequest

JobRequest: TypeAlias = GenerationRequest | UpscaleRequest


def _task(stored: Any) -> str:
    """Return the task of a stored request; those to generate name none, and every request of an earlier version is one."""
    return str(stored.get("task", "generate")) if isinstance(stored, dict) else "generate"


_STORED: TypeAdapter[JobRequest] = TypeAdapter(
    Annotated[
        Annotated[GenerationRequest, Tag("generate")] | Annotated[UpscaleRequest, Tag("upscale")],
        Discriminator(_task),
    ]
)


def read_request(text: str) -> JobRequest | None:
    """Return a stored request, whatever today's limits are; None if it is damaged."""
    try:
        return _STORED.validate_json(text, context=STORED)
    except ValidationError:
        return None
