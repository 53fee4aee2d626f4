"""API dialects: each has its own folder of routes, schemas and errors; a request's path selects its dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from server.errors import ApiError
from server.security.body import USUAL_BODY

#: A route's ``openapi_extra`` that lets anyone call it without the API key; login attempts are still limited.
OPEN: dict[str, Any] = {"security": [{}]}
_BODY_BYTES = "x-body-bytes"
#: Where the document has its schemas.
SCHEMA_TEMPLATE = "#/components/schemas/{model}"


def schema_reference(name: str) -> dict[str, str]:
    """Return the reference to a schema of the document."""
    return {"$ref": SCHEMA_TEMPLATE.format(model=name)}


def schemas_of(*models: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Return the schemas of models and of their parts, as the document has them, by name."""
    found: dict[str, dict[str, Any]] = {}
    for model in models:
        schema = model.model_json_schema(ref_template=SCHEMA_TEMPLATE)
        found |= {**schema.pop("$defs", {}), model.__name__: schema}
    return found


def body_limit(size: int) -> dict[str, Any]:
    """Return a route's ``openapi_extra`` that limits its request's body to so many bytes, in place of USUAL_BODY."""
    return {_BODY_BYTES: size}


def limit_in(operation: Mapping[str, Any]) -> int:
    """Return the bytes that the body may have, by a route's ``openapi_extra`` or its operation in the OpenAPI document."""
    return int(operation.get(_BODY_BYTES, USUAL_BODY))


@dataclass(frozen=True)
class Dialect:
    """One protocol that the server speaks.

    prefixes: the paths whose errors it renders; "" stands for all paths of no other dialect.
    routers: its routes; the first that matches a request answers it.
    render_error: renders an error in the dialect's own form.
    error_body: the schema of a rendered error, for the OpenAPI document.
    schemas: further schemas of the document by name: those of bodies that routes parse themselves.
    ignores_query: whether a query may have parameters that the call does not have, as with the protocol's other servers.
    """

    prefixes: tuple[str, ...]
    routers: tuple[APIRouter, ...]
    render_error: Callable[[ApiError], Response]
    error_body: type[BaseModel]
    schemas: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    ignores_query: bool = False


class Dialects:
    """The server's dialects by path."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self.all = tuple(dialects)
        # The longest prefix is tried first: /v1/images before /v1, and "" last.
        pairs = [(prefix, dialect) for dialect in dialects for prefix in dialect.prefixes]
        self._by_prefix = sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)

    def of(self, path: str) -> Dialect:
        """Return the dialect of a path; "" also has the paths without a slash, as of ``OPTIONS *``."""
        return next(d for prefix, d in self._by_prefix if prefix in ("", path) or path.startswith(f"{prefix}/"))

    def has(self, path: str) -> bool:
        """Return whether a path is a dialect's own, below one of its prefixes."""
        return any(prefix and path.startswith(f"{prefix}/") for prefix, _ in self._by_prefix)

    def render_error(self, path: str, error: ApiError) -> Response:
        """Render an error of a request for ``path``."""
        return self.of(path).render_error(error)
