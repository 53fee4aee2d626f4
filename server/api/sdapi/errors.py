"""The dialect's errors: AUTOMATIC1111's four keys; ``detail`` is a list where a field is wrong, as FastAPI's is."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from server.api.dependencies import Answers
from server.errors import ApiError

#: The status of a request in which a field is wrong.
_WRONG_FIELD = 422


class WrongField(BaseModel):
    """What is wrong with a field."""

    loc: list[str | int] = Field(description="Where it is", examples=[["body", "steps"]])
    msg: str = Field(examples=["steps is 0; accepted: 1 to 150"])
    type: str = Field(description="A word for programs", examples=["invalid_field"])
    input: Any = Field(description="Its value, shortened", examples=[0])


class SdapiError(BaseModel):
    """The body of every answer that is not a success."""

    error: str = Field(description="A word for programs", examples=["invalid_field"])
    detail: str | list[WrongField] = Field(description="A sentence for people; a list if a field is wrong")
    body: str = Field(description="Always empty")
    errors: str = Field(description="The sentence, whether or not a field is wrong")


def _place(field: str) -> list[str | int]:
    return [int(part) if part.isdecimal() and part.isascii() else part for part in field.split(".")]


def render_error(error: ApiError) -> JSONResponse:
    """Render an error as an `SdapiError`."""
    detail: str | list[WrongField] = error.message
    if error.status == _WRONG_FIELD and error.field is not None:
        place = ["body", *(_place(error.field) if error.field != "body" else ())]
        detail = [WrongField(loc=place, msg=error.message, type=error.code, input=error.value)]
    body = SdapiError(error=error.code, detail=detail, body="", errors=error.message)
    return JSONResponse(body.model_dump(), error.status, error.headers)


def answers(**descriptions: str) -> Answers:
    """Return the errors of a route, by their statuses: ``_404="..."``."""
    return {int(name[1:]): {"model": SdapiError, "description": text} for name, text in descriptions.items()}


#: The answers to a body in which something is wrong.
BAD_BODY: Answers = answers(
    _400="The body is not JSON, or no sampler has this name", _422="A field is not accepted; the message names it"
)
#: The further answers of calls that wait for a job.
WAITING: Answers = {
    **BAD_BODY,
    **answers(
        _404="The image's file is missing from the data folder",
        _409="The job was interrupted before it had an image",
        _410="The job has expired",
        _429="The queue or the client's share of it is full, or the client sent too many requests; Retry-After says when to retry",
        _500="The job failed",
        _503="The model is not ready or cannot be loaded; or the server is stopping and keeps the job",
    ),
}
