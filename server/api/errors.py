"""Errors as clients see them: one JSON shape for all, whose message says what was wrong and what is accepted."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from server.pipeline.request import RequestError


class ErrorDetail(BaseModel):
    """What was wrong."""

    code: str = Field(description="A word for programs", examples=["bad_request"])
    message: str = Field(description="A sentence for people", examples=["steps is 0; accepted: 1 to 150"])
    field: str | None = Field(
        default=None, description="The field that was wrong, where it was one", examples=["steps"]
    )
    value: Any = Field(default=None, description="What the field held, shortened", examples=[0])
    accepted: str | None = Field(default=None, description="What the field accepts", examples=["1 to 150"])


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class ApiError(Exception):
    """An error with its HTTP status."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        self.detail = ErrorDetail(code=code, message=message, **more)


def _shown(value: Any) -> Any:
    """A value fit for the answer: short, and JSON."""
    if value is None or (isinstance(value, bool | int) and abs(value) < 2**53):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 80 else text[:77] + "..."


def error_response(status: int, detail: ErrorDetail, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that went wrong."""
    shown = detail.model_copy(update={"value": _shown(detail.value), "message": _shown_message(detail.message)})
    return JSONResponse({"error": shown.model_dump(exclude_none=True)}, status, headers)


def _shown_message(message: str) -> str:
    return message.encode("utf-8", "backslashreplace").decode()


def from_request_error(error: RequestError) -> ApiError:
    """A field the model does not accept: 422."""
    return ApiError(422, "invalid_field", str(error), field=error.field, value=error.value, accepted=error.accepted)


def hide_values(request: Request) -> None:
    """Have no answer to this request show what it held: a dependency of routes that take a secret."""
    request.state.hides_values = True


def from_validation(errors: list[Any]) -> ApiError:
    """The first of pydantic's findings, in our words."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "invalid_json", f"the body is not JSON: {first['ctx']['error']}")
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")) or "body"
    reason = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "missing":
        return ApiError(422, "missing_field", f"{field} is missing; it is required", field=field)
    if first["type"] == "extra_forbidden":
        return ApiError(
            422, "unknown_field", f"{field} is not a field of this request", field=field, value=first["input"]
        )
    shown = _shown(first["input"])
    message = f"{field} is {shown!r}; accepted: {reason[:1].lower()}{reason[1:]}"
    return ApiError(422, "invalid_field", message, field=field, value=first["input"], accepted=reason)


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of the app leave in the one shape."""

    @app.exception_handler(ApiError)
    async def _api(_: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, error.detail, error.headers)

    @app.exception_handler(RequestError)
    async def _field(_: Request, error: RequestError) -> JSONResponse:
        made = from_request_error(error)
        return error_response(made.status, made.detail)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        found = list(error.errors())
        if getattr(request.state, "hides_values", False):
            found = [{**finding, "input": "…"} for finding in found]
        made = from_validation(found)
        return error_response(made.status, made.detail)

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        # Starlette logs it with its traceback; the client is told no more than that it happened.
        return error_response(
            500, ErrorDetail(code="internal", message="something went wrong here; see the server's log")
        )

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        words = {404: "not_found", 405: "method_not_allowed"}
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(request))
        message = {
            404: f"there is nothing at {request.url.path}; see /openapi.json for what there is",
            405: f"{request.method} is not for {request.url.path}; accepted: {headers.get('Allow')}",
        }.get(error.status_code, str(error.detail))
        detail = ErrorDetail(code=words.get(error.status_code, "http_error"), message=message)
        return error_response(error.status_code, detail, headers)


def _methods(request: Request) -> list[str]:
    """The methods that the request's path has; Starlette knows only those of the first route it comes to."""
    routes = [route for route in iter_route_contexts(request.app.routes) if route.methods]
    # The first that matches is the one that answers: a fixed path goes before one with a name in it.
    path = next((route.path for route in routes if route.path_regex.fullmatch(request.url.path)), None)
    return sorted({method for route in routes if route.path == path for method in route.methods or ()})
