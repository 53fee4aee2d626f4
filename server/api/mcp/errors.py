"""MCP's errors: JSON-RPC's form, so that clients show the sentence, with the native API's error as its data."""

from __future__ import annotations

from typing import Any, Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from server.api.native.errors import error_out
from server.errors import ApiError

#: JSON-RPC's own codes.
_NOT_JSON, _INVALID_REQUEST, _INTERNAL = -32700, -32600, -32603


class McpErrorDetail(BaseModel):
    """The description of an error."""

    code: int = Field(description="JSON-RPC's or MCP's code")
    message: str = Field(description="A sentence for people")
    data: Any = Field(default=None, description="The error as the native API tells it, if it is one of ours")


class McpError(BaseModel):
    """The body of an answer that is an error."""

    jsonrpc: Literal["2.0"] = "2.0"
    id: int | str | None = Field(None, description="The request's id; null if it was refused before it was read")
    error: McpErrorDetail


def render_error(error: ApiError) -> JSONResponse:
    """Render an error as a `McpError`."""
    code = _NOT_JSON if error.code == "invalid_json" else _INTERNAL if error.status >= 500 else _INVALID_REQUEST
    body = McpError(error=McpErrorDetail(code=code, message=error.message, data=error_out(error)))
    return JSONResponse(body.model_dump(), error.status, error.headers)


def error(description: str) -> dict[str, Any]:
    """Describe an error in the route's ``responses``."""
    return {"model": McpError, "description": description}
