"""The limits that the capabilities list: the range of every number that a request may have, and what bodies and images may be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, create_model

from server.api.image_json import MOST_IMAGES
from server.pipeline.decoding.file import LONGEST_SIDE, MOST_PIXELS
from server.pipeline.fields import RequestField, fields_of
from server.pipeline.limits import Within
from server.pipeline.request import FIELDS, UPSCALE_FIELDS, longest_prompt
from server.pipeline.request.controls import Control, MapQuestion
from server.pipeline.request.edits import PaletteQuestion
from server.security.body import LARGEST_BODY

#: What has fields of its own beside the image tasks: its name, what it is called in descriptions, and its fields.
_OTHERS: tuple[tuple[str, str, Iterable[RequestField]], ...] = (
    ("control", "an item of `controls`", fields_of(Control)),
    ("upscale", "`POST /api/v1/upscale`", UPSCALE_FIELDS),
    ("palette", "`POST /api/v1/palette`", fields_of(PaletteQuestion)),
    ("preprocess", "`POST /api/v1/preprocess`", fields_of(MapQuestion)),
)


class _Limits(BaseModel):
    """The least and greatest value of a request's fields, and further limits.

    Where the least value itself is not accepted, as for strength, the description says so.
    """

    prompt_characters: int = longest_prompt()
    body_bytes: int = Field(LARGEST_BODY, description="Of a request with images")
    images: int = Field(MOST_IMAGES, description="Of a request")
    image_side: int = Field(LONGEST_SIDE, description="Pixels of the longest side of an image that is sent")
    image_pixels: int = Field(MOST_PIXELS, description="Pixels of an image that is sent")
    queue: int = Field(description="Jobs that may wait at once")


def _ranges(fields: Iterable[RequestField]) -> dict[str, Any]:
    """Return a definition for pydantic's ``create_model`` of each field that is a number: its least and greatest value."""
    within = {field.name: field.find(Within) for field in fields}
    return {
        name: (tuple[type(limit.low), type(limit.high)], Field((limit.low, limit.high), description=str(limit)))  # type: ignore[misc]
        for name, limit in within.items()
        if limit is not None
    }


if TYPE_CHECKING:
    LimitsOut = _Limits
else:
    _further: dict[str, Any] = {}
    for _name, _what, _fields in _OTHERS:
        _about = f"The least and greatest value of the fields of {_what}."
        _schema = create_model(f"{_name.title()}LimitsOut", __doc__=_about, **_ranges(_fields))
        _further[_name] = (_schema, Field(_schema(), description=f"Of {_what}"))
    LimitsOut = create_model("LimitsOut", __base__=_Limits, __doc__=_Limits.__doc__, **_ranges(FIELDS), **_further)
