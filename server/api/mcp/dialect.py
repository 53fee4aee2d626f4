"""The MCP dialect."""

from __future__ import annotations

from server.api.dialect import Dialect
from server.api.mcp import PATH, route
from server.api.mcp.errors import McpError, render_error

MCP = Dialect(prefixes=(PATH,), routers=(route.router,), render_error=render_error, error_body=McpError)
