"""Errors as OpenAI's API answers them, and as its clients read them."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from server.api.dependencies import Answers
from server.errors import ApiError

#: Codes that clients of OpenAI know by another name.
_CODES = {"key_missing": "invalid_api_key", "key_wrong": "invalid_api_key", "too_many_requests": "rate_limit_exceeded"}


class OpenAIErrorDetail(BaseModel):
    """The description of an error; all four keys are always there."""

    message: str = Field(description="A sentence for people", examples=["steps is 0; accepted: 1 to 150"])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The wrong field, if any", examples=["steps"])
    code: str | None = Field(description="A word for programs", examples=["invalid_field"])


class OpenAIError(BaseModel):
    """The body of every answer that is not a success."""

    error: OpenAIErrorDetail


def new_request_id() -> str:
    """Return an id for the header x-request-id, which OpenAI's clients show with an answer."""
    return f"req_{secrets.token_hex(12)}"


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error as the body of an answer or the data of an event."""
    detail = OpenAIErrorDetail(
        message=error.message,
        type=_type(error.status),
        param=error.field,
        code=_CODES.get(error.code, error.code),
    )
    return OpenAIError(error=detail).model_dump()


def render_error(error: ApiError) -> JSONResponse:
    """Render an error as an `OpenAIError`. A request with a wrong field is a 400, as in OpenAI's API.

    OpenAI's clients send a request again after 408, 409, 429 and 5xx, unless the answer says otherwise: that only helps
    where the server knows when to.
    """
    again = "true" if "Retry-After" in error.headers or "retry-after" in error.headers else "false"
    headers = {"x-request-id": new_request_id(), "x-should-retry": again}
    return JSONResponse(error_body(error), 400 if error.status == 422 else error.status, {**error.headers, **headers})


def error(description: str) -> dict[str, Any]:
    """Describe an error in a route's ``responses``."""
    return {"model": OpenAIError, "description": description}


#: What calls that make images may answer beside their success.
MAKING: Answers = {
    400: error("A field is not accepted; `param` names it, and the message says what is accepted"),
    403: error("`priority` is `high`, and the client is on another machine"),
    404: error("The model is not installed"),
    409: error("The job was cancelled before it finished"),
    410: error("The job has expired"),
    413: error("The body is too large"),
    415: error("The body's type is not accepted"),
    429: error("The queue is full; Retry-After says when to send the request again"),
    500: error("The job failed"),
    503: error("The model is not ready or cannot be loaded; or the server is stopping and keeps the job"),
}
