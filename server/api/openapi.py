"""The OpenAPI document, completed with what FastAPI cannot see of the app."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from server.api.dialect import Dialects

#: What the gate may answer to any request.
_GATE = {
    "401": "The server needs its API key, and the request has none or a wrong one",
    "403": "Wrong Host, or a page of another site",
    "429": "Too many requests or too many wrong keys; Retry-After says when to retry",
}
#: And to one with a body.
_BODY = {"408": "The body stopped coming", "413": "The body is too large"}
_FASTAPIS = "HTTPValidationError"
_CREDENTIALS = {
    "key": {"type": "http", "scheme": "bearer", "description": "The API key, where the server needs one"},
    "basic": {"type": "http", "scheme": "basic", "description": "The API key as user name or as password"},
}
#: The empty choice: on its own machine, a server needs no key unless its owner sets one.
_SECURITY: list[dict[str, list[str]]] = [{}, {"key": []}, {"basic": []}]


def completed(document: dict[str, Any], dialects: Dialects) -> dict[str, Any]:
    """Add credentials, the gate's answers, and the schemas of errors and of bodies that routes read themselves."""
    schemas = document["components"]["schemas"]
    for dialect in dialects.all:
        schemas.update(dialect.schemas)
        _add_schema(schemas, dialect.error_body)
    for replaced in (_FASTAPIS, "ValidationError"):
        schemas.pop(replaced, None)
    document["components"]["securitySchemes"] = _CREDENTIALS
    for path, operations in document["paths"].items():
        error = _reference(dialects.of(path).error_body)
        for method, operation in operations.items():
            operation.setdefault("security", _SECURITY)
            answers = {**_GATE, **(_BODY if method in ("post", "put", "patch") else {})}
            for status, answer in operation["responses"].items():
                # FastAPI gives the errors of a stream of events the stream's type, and bad requests its own shape.
                content = answer.get("content", {})
                if status >= "400" and ("text/event-stream" in content or _FASTAPIS in str(content)):
                    answer["content"] = error
            for status, description in answers.items():
                operation["responses"].setdefault(status, {"description": description, "content": error})
    return document


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


def _add_schema(schemas: dict[str, Any], model: type[BaseModel]) -> None:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, part in {**schema.pop("$defs", {}), model.__name__: schema}.items():
        schemas.setdefault(name, part)
