"""Requests of every kind, as jobs have them and as they are stored."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from server.pipeline.limits import STORED
from server.pipeline.request.request import GenerationRequest
from server.pipeline.request.upscale import UpscaleRequest

JobRequest: TypeAlias = GenerationRequest | UpscaleRequest


def _kind(stored: Any) -> str:
    """Return whether a stored request is one to enlarge or to generate; those of earlier versions name no task."""
    return "upscale" if isinstance(stored, dict) and stored.get("task") == "upscale" else "generate"


_STORED: TypeAdapter[JobRequest] = TypeAdapter(
    Annotated[
        Annotated[GenerationRequest, Tag("generate")] | Annotated[UpscaleRequest, Tag("upscale")],
        Discriminator(_kind),
    ]
)


def read_request(text: str) -> JobRequest | None:
    """Return a stored request, whatever today's limits are; None if it is damaged."""
    try:
        return _STORED.validate_json(text, context=STORED)
    except ValidationError:
        return None
