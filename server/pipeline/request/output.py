"""The files that a request's images are delivered in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from server.pipeline.encoding.formats import FORMATS, USUAL_QUALITY, OutputFormat
from server.pipeline.fields import Part
from server.pipeline.limits import OneOf, Whole, Within
from server.pipeline.request.errors import RequestError

FormatName = Annotated[str, OneOf(tuple(FORMATS))]
Quality = Annotated[Whole, Within(1, 100)]


class Output(Part):
    """The format of the images that a client gets; they are stored as PNG."""

    format: FormatName | None = Field(
        None, description="The format of the images; left out: as the Accept header, or a file's suffix, says, or PNG"
    )
    quality: Quality | None = Field(None, description=f"The quality of WebP and JPEG; left out: {USUAL_QUALITY}")


def require_lossy(quality: int | None, to: OutputFormat) -> None:
    """Raise RequestError if a quality is asked for of a format that has none."""
    if quality is not None and not to.lossy:
        lossy = ", ".join(each.name for each in FORMATS.values() if each.lossy)
        raise RequestError("quality", quality, f"leave it out for {to.name}; it belongs to {lossy}")
