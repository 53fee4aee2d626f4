"""The files that a request's images are delivered in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from server.pipeline.fields import OneOf, Part, Whole, Within

FORMATS = ("png", "jpeg", "webp")


class Output(Part):
    """The format of the images that a client gets."""

    format: Annotated[str, OneOf(FORMATS)] = Field("png", description="The format of the images that are returned")
    quality: Annotated[Whole, Within(1, 100)] | None = Field(
        None, description="The quality of JPEG and WebP; left out: 90"
    )
