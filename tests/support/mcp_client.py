"""Talks to a server's /mcp: with the SDK's own client, or message by message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image

from tests.support.image_files import of_b64

_T = TypeVar("_T")
#: How the SDK's client agrees on a version: one from before and one since messages stand for themselves.
OLD, NEW = "legacy", "2026-07-28"
#: A version from before messages stood for themselves, as requests name it.
VERSION = "2025-11-25"
#: The header that every request has.
ACCEPT = {"accept": "application/json, text/event-stream"}


def with_client(
    server: httpx.Client, ask: Callable[[Client], Awaitable[_T]], mode: str = NEW, key: str | None = None
) -> _T:
    """Return what ``ask`` returns of the SDK's client."""

    async def asked() -> _T:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        http = httpx2.AsyncClient(headers=headers, timeout=60.0, trust_env=False)
        connection = streamable_http_client(f"{server.base_url}/mcp", http_client=http)
        async with http, Client(connection, mode=mode) as client:
            return await ask(client)

    try:
        return asyncio.run(asked())
    except ExceptionGroup as group:  # the client's tasks put an error into groups of one
        raise _only(group) from None


def _only(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def call(server: httpx.Client, tool: str, mode: str = NEW, **arguments: Any) -> CallToolResult:
    """Return a tool's result."""

    async def ask(client: Client) -> CallToolResult:
        return await client.call_tool(tool, arguments)

    return with_client(server, ask, mode)


def text(result: CallToolResult) -> str:
    (content,) = [each for each in result.content if isinstance(each, TextContent)]
    return content.text


def images(result: CallToolResult) -> list[tuple[str, Image.Image]]:
    """Return the media types and the pixels of a result's images."""
    contents = [each for each in result.content if isinstance(each, ImageContent)]
    return [(each.mime_type, of_b64(each.data)) for each in contents]


def sent(method: str, version: str, **params: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a request's body and headers, as the SDK's client sends them in a protocol version."""
    headers = {**ACCEPT, "mcp-protocol-version": version}
    if version == NEW:
        params["_meta"] = {
            **params.get("_meta", {}),
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        headers |= {"mcp-method": method, **({"mcp-name": params["name"]} if "name" in params else {})}
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, headers


@contextmanager
def calling(server: httpx.Client, version: str, tool: str, **arguments: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """Call a tool that tells its progress, and yield the messages of the answer; the connection is closed at the end."""
    body, headers = sent("tools/call", version, name=tool, arguments=arguments, _meta={"progressToken": "p"})
    with server.stream("POST", "/mcp", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        # The SDK answers with plain JSON if there was no progress to tell.
        events = answer.headers["content-type"].startswith("text/event-stream")
        lines = (
            line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {") or not events
        )
        yield map(json.loads, lines)
