"""Answers with an image in the format that the client asks for, or else in the one that it prefers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request

from server.api.accept import preferred
from server.api.dependencies import Answers
from server.api.native.errors import error
from server.errors import ApiError, quoted
from server.jobs.job import Job, JobImage
from server.pipeline.encoding.formats import FORMATS, USUAL_QUALITY, OutputFormat
from server.pipeline.request.output import FormatName, Output, Quality, require_lossy

JSON = "application/json"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
#: An image in the OpenAPI document.
CONTENT: dict[str, Any] = {each.media_type: _BINARY for each in FORMATS.values()}
NOT_ACCEPTABLE: Answers = {
    406: error("The Accept header takes none of the types that there are; the message names them")
}
_BY_MEDIA_TYPE = {each.media_type: each for each in FORMATS.values()}


# A header that is a list may come in several lines, which mean the same as one (RFC 9110, 5.3); FastAPI has the first.
def _all(request: Request, name: str) -> str | None:
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None


async def _accept(
    request: Request,
    accept: Annotated[
        str | None,
        Header(
            description="The types that the client takes; the call's usual one goes before others that it takes equally"
        ),
    ] = None,
) -> str | None:
    return None if accept is None else _all(request, "Accept")


async def _known_tags(request: Request, if_none_match: Annotated[str | None, Header()] = None) -> str | None:
    return None if if_none_match is None else _all(request, "If-None-Match")


Accept = Annotated[str | None, Depends(_accept)]
KnownTags = Annotated[str | None, Depends(_known_tags)]


def accepted_type(accept: str | None, offered: tuple[str, ...]) -> str:
    """Return the media type to answer with; raise ApiError 406 if the client takes none of those offered."""
    chosen = preferred(accept, offered)
    if chosen is None:
        listed = ", ".join(offered)
        message = f"the Accept header is {quoted(accept)}; accepted: {listed}, or ranges that have one of them"
        raise ApiError(406, "not_acceptable", message, field="Accept", value=accept, accepted=listed)
    return chosen


@dataclass(frozen=True)
class Encoding:
    """The format and the quality (1 to 100; None: the usual one, or none) to answer with."""

    to: OutputFormat
    quality: int | None = None

    def __post_init__(self) -> None:
        require_lossy(self.quality, self.to)


def encoding_of(output: Output, accept: str | None) -> Encoding | None:
    """Return the encoding of a new image: the format that is asked for, or what the client accepts; None: JSON.

    A client that prefers JSON gets it whatever the format. Raises ApiError 406, and RequestError for a quality that the
    format does not have.
    """
    if output.format is None:
        chosen = accepted_type(accept, (*_BY_MEDIA_TYPE, JSON))
        return None if chosen == JSON else Encoding(_BY_MEDIA_TYPE[chosen], output.quality)
    to = FORMATS[output.format]
    return None if preferred(accept, (to.media_type, JSON)) == JSON else Encoding(to, output.quality)


@dataclass(frozen=True)
class EncodingAsked:
    """What a request for a stored image says of its encoding. A ``format`` goes before the Accept header.

    Among formats that the client takes equally, that of the request which made the image goes first, with its quality.
    """

    accept: Accept = None
    format: Annotated[FormatName | None, Query(description="If left out, as the Accept header says")] = None
    quality: Annotated[
        Quality | None, Query(description=f"Of JPEG and WebP, 1 to 100; {USUAL_QUALITY} if left out")
    ] = None

    def encoding(self, made: Output) -> Encoding:
        """Return the encoding of an image made by a request with this output; raises as `encoding_of` does."""
        if self.format is not None:
            return Encoding(FORMATS[self.format], self.quality)
        first = (FORMATS[made.format].media_type,) if made.format is not None else ()
        to = _BY_MEDIA_TYPE[accepted_type(self.accept, tuple(dict.fromkeys((*first, *_BY_MEDIA_TYPE))))]
        return Encoding(to, made.quality if self.quality is None and to.lossy else self.quality)


Asked = Annotated[EncodingAsked, Depends()]


def image_tag(image: JobImage, encoding: Encoding) -> str:
    """Return the ETag of a stored image as it is encoded: a file's name is random, and its content never changes."""
    quality = "" if encoding.quality is None else f"-{encoding.quality}"
    return f'"{Path(image.file).stem}-{encoding.to.name}{quality}"'


def has_tag(if_none_match: str | None, tag: str) -> bool:
    """Return whether an If-None-Match header names the tag, or any."""
    known = [word.strip().removeprefix("W/") for word in (if_none_match or "").split(",")]
    return tag in known or "*" in known


def image_headers(job: Job, image: JobImage, encoding: Encoding) -> dict[str, str]:
    """Return the headers of an image's answer besides its type."""
    name = f"{job.id}-{image.index}{encoding.to.suffixes[0]}"
    headers = {"Vary": "Accept", "Content-Disposition": f'inline; filename="{name}"'}
    return {**headers, "X-Anemone-Safety": "blurred"} if image.flagged else headers
