"""Completes the OpenAPI document with what FastAPI cannot derive from the app."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from server.api.dialect import OPEN, Dialects, limit_in, schema_reference, schemas_of
from server.security.body import in_units

#: The gate's possible answers to any request.
_GATE = {
    "401": "The server requires its API key, and the request has no key or a wrong one",
    "403": "The Host is wrong, or a page of another site sent the request",
    "414": "The query is too long",
    "429": "Too many requests, or too many wrong keys; Retry-After says when to retry",
    "503": "Too many other requests are in progress; Retry-After says when to retry",
}
#: Its further possible answers to a request with a body.
_BODY = {
    "408": "The client stopped sending the body, or sent it too slowly",
    "413": "The body is larger than {limit}",
    "415": "The body's type is not accepted, or it is compressed",
}
#: The possible answer of all dialects' routes.
_QUERY = {"422": "The query has something else than this call's parameters; the message names it"}
#: The possible answers of all routes that read or write the data folder, and of those that write.
_READING = {"503": "The data folder or the job database cannot be used now; Retry-After says when to retry"}
_WRITING = {"507": "The disk is full"}
_FASTAPI_ERROR = "HTTPValidationError"
_CREDENTIALS = {
    "key": {"type": "http", "scheme": "bearer", "description": "The API key, if the server requires one"},
    "basic": {"type": "http", "scheme": "basic", "description": "The API key as user name or as password"},
}
#: The empty alternative: on its own machine, a server requires no key unless its owner sets one.
_SECURITY: list[dict[str, list[str]]] = [{}, {"key": []}, {"basic": []}]


def complete(document: dict[str, Any], dialects: Dialects) -> dict[str, Any]:
    """Add credentials, the gate's answers, and the schemas of errors and of bodies that routes parse themselves."""
    schemas = document["components"]["schemas"]
    for dialect in dialects.all:
        schemas.update(dialect.schemas)
        for name, schema in schemas_of(dialect.error_body).items():
            schemas.setdefault(name, schema)
    for replaced in (_FASTAPI_ERROR, "ValidationError"):
        schemas.pop(replaced, None)
    document["components"]["securitySchemes"] = _CREDENTIALS
    for path, operations in document["paths"].items():
        error = _reference(dialects.of(path).error_body)
        for method, operation in operations.items():
            operation.setdefault("security", _SECURITY)
            limit = in_units(limit_in(operation))
            body = _BODY if method in ("post", "put", "patch") else {}
            answers = _GATE | {status: text.format(limit=limit) for status, text in body.items()}
            if operation["security"] != OPEN["security"]:
                answers |= {**_READING, **({} if method == "get" else _WRITING)}
            if dialects.has(path) and not dialects.of(path).ignores_query:
                answers |= _QUERY
            for status, answer in operation["responses"].items():
                # FastAPI documents an event stream's errors with the stream's type, and bad requests with its own schema.
                content = answer.get("content", {})
                if status >= "400" and ("text/event-stream" in content or _FASTAPI_ERROR in str(content)):
                    answer["content"] = error
            for status, description in answers.items():
                operation["responses"].setdefault(status, {"description": description, "content": error})
    return document


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": schema_reference(model.__name__)}}
