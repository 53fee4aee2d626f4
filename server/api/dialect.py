"""API dialects: each a folder of its own with routes, schemas and errors, chosen by a request's path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from server.errors import ApiError

#: A route's ``openapi_extra`` that lets anyone call it without the API key; login attempts are still limited.
OPEN: dict[str, Any] = {"security": [{}]}


@dataclass(frozen=True)
class Dialect:
    """One way of talking to the server.

    prefixes: the paths whose errors it renders; "" are all that no other dialect has.
    routers: its routes, in the order in which they are tried.
    render_error: writes an error in its form.
    error_body: the schema of what ``render_error`` writes, for the OpenAPI document.
    schemas: further schemas of the document by name, those of bodies that its routes read themselves.
    """

    prefixes: tuple[str, ...]
    routers: tuple[APIRouter, ...]
    render_error: Callable[[ApiError], Response]
    error_body: type[BaseModel]
    schemas: Mapping[str, dict[str, Any]] = field(default_factory=dict)


class Dialects:
    """The server's dialects by path."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self.all = tuple(dialects)
        # The longest prefix is tried first: /v1/images before /v1, and "" last.
        found = [(prefix, dialect) for dialect in dialects for prefix in dialect.prefixes]
        self._by_prefix = sorted(found, key=lambda pair: len(pair[0]), reverse=True)

    def of(self, path: str) -> Dialect:
        """Return the dialect that a path belongs to; "" has those without a slash, too, as of ``OPTIONS *``."""
        return next(d for prefix, d in self._by_prefix if prefix in ("", path) or path.startswith(f"{prefix}/"))

    def render_error(self, path: str, error: ApiError) -> Response:
        """Render an error of a request for ``path``."""
        return self.of(path).render_error(error)
