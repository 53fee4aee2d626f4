"""The request to enlarge an image: no prompt, no steps, no model of Stable Diffusion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from server.pipeline.fields import Attachment, Derived, Part, RequestField, fields_of, values_of
from server.pipeline.limits import Real, Whole, Within
from server.pipeline.request.conditions import NAME
from server.pipeline.request.errors import RequestError, SentFields
from server.pipeline.request.output import Output
from server.pipeline.request.sampling import Extent

#: What comes before an upscaler's name where jobs have the name of a model; no model's name has a slash.
_OF_UPSCALERS = "upscalers/"
#: Pixels of an enlarged image: the worker takes 20 bytes for each, and a PNG of so many takes a second.
MOST_PIXELS = 2**24
#: Pixels of its longer side: WebP, the format with the least, has 14 bits for a side and keeps one value free.
LONGEST_RESULT = 2**14 - 1
#: The limits of a result, in words.
RESULTS = f"results of up to {MOST_PIXELS} pixels and {LONGEST_RESULT} a side, such as 4096x4096"
_USUAL_SCALE = 2.0


def needs_model(listed: str) -> bool:
    """Return whether jobs that are listed under this name need a model of Stable Diffusion."""
    return not listed.startswith(_OF_UPSCALERS)


def is_too_large(result: Extent) -> bool:
    """Return whether an enlarged image is beyond the limits of results."""
    return result.width * result.height > MOST_PIXELS or max(result.width, result.height) > LONGEST_RESULT


class Enlargement(Part):
    """How large an image becomes: a scale, or a width, a height or both."""

    scale: Annotated[Real, Within(1.0, 8.0)] | None = Field(
        None, description="How many times larger; left out, with no width and height: 2"
    )
    width: Annotated[Whole, Within(1, LONGEST_RESULT)] | None = Field(
        None, description="Pixels, instead of a scale; without a height the image keeps its ratio"
    )
    height: Annotated[Whole, Within(1, LONGEST_RESULT)] | None = Field(
        None, description="Pixels; with a width of another ratio, the image is cropped in the middle"
    )


class UpscaleRequest(Part):
    """A request to enlarge an image. ``image`` is the attachment's name.

    task: distinguishes it from stored requests to generate.
    source: the size of the upright image; size: that of the result.
    tile: the side of the upscaler's tiles; 0 if it has none.
    notes: what a client should know about how its request was understood.
    """

    task: Annotated[Literal["upscale"], Derived()] = "upscale"
    image: Annotated[str, Attachment()] = Field(description="The image to enlarge")
    upscaler: str = Field(max_length=NAME, description="An upscaler (see capabilities); left out: the first")
    enlargement: Enlargement
    source: Annotated[Extent, Derived()]
    size: Annotated[Extent, Derived()]
    tile: Annotated[Whole, Derived()] = 0
    output: Output = Output()
    notes: Annotated[tuple[str, ...], Derived()] = ()

    images: ClassVar[int] = 1

    @property
    def model(self) -> str:
        """What the job is listed under in place of a model."""
        return f"{_OF_UPSCALERS}{self.upscaler}"

    @property
    def result(self) -> Extent:
        """The size of the image that the client gets."""
        return self.size

    @property
    def computed(self) -> Extent:
        """The size of a step: a tile, or the whole image."""
        return Extent(width=self.tile, height=self.tile) if self.tile else self.size

    @property
    def attached(self) -> Extent:
        """The size in which the image is stored until the job runs."""
        return self.source

    def values(self) -> dict[str, Any]:
        """Return the values of the fields that clients set, by name, and the size of the result."""
        return values_of(self, UPSCALE_FIELDS) | {"width": self.size.width, "height": self.size.height}


#: Every field that a client may set.
UPSCALE_FIELDS: tuple[RequestField, ...] = tuple(fields_of(UpscaleRequest))
_SENT = SentFields(UPSCALE_FIELDS, required=lambda field: field.is_attachment)


def _size(asked: Enlargement, source: Extent) -> Extent:
    """Return the size that a client asks for; raises RequestError if it contradicts itself or is too large."""
    width, height = asked.width, asked.height
    if asked.scale is not None and (width or height):
        raise RequestError("scale", asked.scale, "a scale, or a width and height; leave one out")
    factor = asked.scale or _USUAL_SCALE
    if width is not None or height is not None:
        factor = max((width or 0) / source.width, (height or 0) / source.height)
    size = Extent(
        width=width or max(1, round(source.width * factor)), height=height or max(1, round(source.height * factor))
    )
    if is_too_large(size):
        field, value = next(
            ((name, v) for name, v in (("scale", asked.scale), ("width", width), ("height", height)) if v),
            ("scale", _USUAL_SCALE),
        )
        most = min(
            (MOST_PIXELS / (source.width * source.height)) ** 0.5, LONGEST_RESULT / max(source.width, source.height)
        )
        raise RequestError(
            field,
            value,
            f"{RESULTS}; this would be {size}, and an image of {source} "
            + (f"can be enlarged {int(most * 100) / 100:g} times" if most >= 1 else "is too large itself"),
        )
    return size


def check_upscaler(field: str, name: str, known: Iterable[str]) -> None:
    """Raise RequestError for an upscaler that is not among those known, by name."""
    names = tuple(known)
    if name not in names:
        raise RequestError(field, name, ", ".join(names))


def bind_upscale(upscalers: Mapping[str, int], source: tuple[int, int], **fields: Any) -> UpscaleRequest:
    """Return the request with these fields; those that are missing or None take their defaults.

    ``upscalers`` has the side of the tiles of each upscaler by name (0: it has none), the default one first; ``source`` is
    the width and height of the upright image. Raises RequestError for the first wrong field.
    """
    sent = _SENT.validated(fields)
    name = sent.get("upscaler", next(iter(upscalers)))
    check_upscaler("upscaler", name, upscalers)
    parts: dict[str, dict[str, Any]] = {"enlargement": {}, "output": {}}
    for field in UPSCALE_FIELDS:
        if field.part is not None and field.name in sent:
            parts[field.part][field.name] = sent[field.name]
    width, height = source
    before = Extent(width=width, height=height)
    return UpscaleRequest(
        image=sent["image"],
        upscaler=name,
        enlargement=Enlargement(**parts["enlargement"]),
        source=before,
        size=_size(Enlargement(**parts["enlargement"]), before),
        tile=upscalers[name],
        output=Output(**parts["output"]),
    )
