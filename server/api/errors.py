"""Turns every refusal and exception into an `ApiError`, which the path's dialect renders."""

from __future__ import annotations

import json
import logging
import sqlite3
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from server.api.refusal import Reason, Refusal
from server.errors import ApiError, RenderError, quoted
from server.faults import Fault, fault_of
from server.pipeline.limits import value_and_reason
from server.pipeline.request import RequestError

log = logging.getLogger("anemone.api")

_T = TypeVar("_T")

_STATUS: dict[Reason, int] = {
    "unknown_model": 422,
    "not_ready": 503,
    "model_failed": 503,
    "not_allowed": 403,
    "queue_full": 429,
    "key_reused": 422,
    "invalid_image": 422,
    "no_such_job": 404,
    "no_such_image": 404,
    "expired": 410,
    "job_open": 409,
    "cancelled": 409,
    "not_now": 503,
    "disk_full": 507,
    "unsafe_image": 422,
    "addon_changed": 409,
    "addon_misfit": 422,
    "failed": 500,
}


def require(result: _T | Refusal) -> _T:
    """Return the service's result; raise ApiError if it is a refusal."""
    if not isinstance(result, Refusal):
        return result
    headers = {}
    if result.retry_after is not None:
        headers["Retry-After"] = str(result.retry_after)
    if result.reason == "unsafe_image":
        headers["X-Anemone-Safety"] = "refused"
    raise ApiError(
        _STATUS[result.reason],
        result.code,
        result.message,
        field=result.field,
        value=result.value,
        accepted=result.accepted,
        headers=headers,
    )


def from_request_error(error: RequestError) -> ApiError:
    """Return the error for a field that the model does not accept."""
    return ApiError(422, "invalid_field", str(error), field=error.field, value=error.value, accepted=error.accepted)


def hide_values(request: Request) -> None:
    """Keep a request's values out of its error messages; a dependency of routes that take a secret."""
    request.state.hides_values = True


def not_json(error: Exception) -> ApiError:
    """Return the error for a body that could not be parsed as JSON."""
    if isinstance(error, json.JSONDecodeError):
        reason = f"{error.msg} at character {error.pos}"
    elif isinstance(error, UnicodeDecodeError):
        reason = "it is not UTF-8"
    elif isinstance(error, RecursionError):
        reason = "it is nested too deeply"
    else:
        reason = "a number has too many digits"
    return ApiError(400, "invalid_json", f"the body is not JSON that can be read: {reason}")


def from_validation(errors: list[Any]) -> ApiError:
    """Return the error for the first of pydantic's findings."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return not_json(json.JSONDecodeError(first["ctx"]["error"], "", first["loc"][-1]))
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")) or "body"
    if first["type"] == "missing":
        return ApiError(422, "missing_field", f"{field} is missing; it is required", field=field)
    value, reason = value_and_reason(first)
    if first["type"] == "extra_forbidden":
        message = f"{quoted(field)[1:-1]} is not a field of this request; accepted: {reason}"
        return ApiError(422, "unknown_field", message, field=field, value=value, accepted=reason)
    message = f"{field} is {quoted(value)}; accepted: {reason}"
    return ApiError(422, "invalid_field", message, field=field, value=value, accepted=reason)


def from_http(request: Request, error: HTTPException) -> ApiError:
    """Return the error for what Starlette itself refuses: an unknown path, or a method that the path does not accept."""
    path, headers = request.url.path, dict(error.headers or {})
    if error.status_code == 404:
        return ApiError(
            404, "not_found", f"the path {path} does not exist; see /openapi.json for the paths", headers=headers
        )
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request))
        message = f"{path} does not accept {request.method}; accepted: {headers['Allow']}"
        return ApiError(405, "method_not_allowed", message, headers=headers)
    if isinstance(error.__cause__, ValueError | RecursionError):  # of FastAPI's JSON parser
        return not_json(error.__cause__)
    return ApiError(error.status_code, "http_error", str(error.detail), headers=headers)


def from_fault(fault: Fault) -> ApiError:
    """Return the error for what the disk or the job database does not allow now."""
    return ApiError(fault.status, fault.code, fault.message, headers={"Retry-After": str(fault.retry_after)})


def internal() -> ApiError:
    """Return the error for a fault of the server; clients get no details."""
    return ApiError(500, "internal", "an internal error occurred; see the server's log")


def as_api_error(error: Exception) -> ApiError | None:
    """Return the error to answer with; None for a fault of the server."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return from_request_error(error)
    if isinstance(error, ValidationError):
        return from_validation(list(error.errors()))
    fault = fault_of(error)
    return None if fault is None else from_fault(fault)


def install_error_handlers(app: FastAPI, render: RenderError) -> None:
    """Answer every exception of the app through ``render``."""

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> Response:
        return render(request.url.path, error)

    @app.exception_handler(RequestError)
    async def _field(request: Request, error: RequestError) -> Response:
        return render(request.url.path, from_request_error(error))

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        findings = list(error.errors())
        if getattr(request.state, "hides_values", False):
            findings = [{**findings[0], "input": "…"}]
        return render(request.url.path, from_validation(findings))

    @app.exception_handler(sqlite3.Error)
    @app.exception_handler(OSError)
    async def _storage(request: Request, error: Exception) -> Response:
        fault = fault_of(error)
        if fault is None:
            raise error
        log.warning("%s %s: %s (%s)", request.method, request.url.path, fault.message, error)
        return render(request.url.path, from_fault(fault))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        # Starlette logs it with its traceback.
        return render(request.url.path, internal())

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return render(request.url.path, from_http(request, error))


def _methods(request: Request) -> list[str]:
    """Return all methods of the request's path; Starlette returns only those of the first matching route."""
    routes = [route for route in iter_route_contexts(request.app.routes) if route.methods]
    # The first match answers a request: a fixed path precedes one with a parameter.
    path = next((route.path for route in routes if route.path_regex.fullmatch(request.url.path)), None)
    methods = {method for route in routes if route.path == path for method in route.methods or ()}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)
