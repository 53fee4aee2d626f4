"""The native dialect's errors: one JSON schema; the message says what was wrong and what is accepted."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from server.api.dependencies import Answers
from server.errors import ApiError


class ErrorDetail(BaseModel):
    """The description of an error."""

    code: str = Field(description="A word for programs", examples=["bad_request"])
    message: str = Field(description="A sentence for people", examples=["steps is 0; accepted: 1 to 150"])
    field: str | None = Field(default=None, description="The wrong field, if any", examples=["steps"])
    value: Any = Field(default=None, description="The field's value, shortened", examples=[0])
    accepted: str | None = Field(default=None, description="What the field accepts", examples=["1 to 150"])


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


def error_out(error: ApiError) -> dict[str, Any]:
    """Return an error as an `ErrorDetail` in JSON."""
    detail = ErrorDetail(
        code=error.code, message=error.message, field=error.field, value=error.value, accepted=error.accepted
    )
    return detail.model_dump(exclude_none=True)


def render_error(error: ApiError) -> JSONResponse:
    """Render an error as an `ErrorBody`."""
    return JSONResponse({"error": error_out(error)}, error.status, error.headers)


def error(description: str) -> dict[str, Any]:
    """Describe an error in a route's ``responses``."""
    return {"model": ErrorBody, "description": description}


#: The answers to a body in which something is wrong.
BAD_BODY: Answers = {
    400: error("The body cannot be parsed"),
    415: error("The body's type is not accepted"),
    422: error("A field or header is not accepted; the message names it"),
}
