"""Answers messages by the SDK: a server that lists and calls our tools. Only this module imports the SDK."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from sse_starlette.sse import AppStatus
from starlette.types import Receive, Scope, Send

from converter import __version__
from server.api.errors import as_api_error, internal
from server.api.mcp.addresses import with_addressed
from server.api.mcp.calls import CALLS, Call
from server.api.mcp.exchange import SCOPE, Exchange
from server.api.mcp.progress import OnProgress
from server.api.mcp.reply import Reply
from server.api.mcp.tools import TOOLS, Asker
from server.api.native.errors import error_out
from server.api.service import Service
from server.errors import ApiError, quoted
from server.security.body import LARGEST_BODY
from server.security.rate import client_of

log = logging.getLogger("anemone.api")

# It would cut the streams off at the signal to stop; `server.shutdown` answers them all.
AppStatus.enable_automatic_graceful_drain = False

_Context = ServerRequestContext[dict[str, Any]]
_ABOUT = (
    "Makes and edits images on the user's own machine. Every image belongs to a job, whose id the tools tell. Repeat a seed "
    "to get the same image again with one thing changed; give the address of an image to edit or enlarge it."
)


async def _list(ctx: _Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[_described(name) for name in TOOLS])


def _described(name: str) -> types.Tool:
    tool = TOOLS[name]
    hints = types.ToolAnnotations(
        read_only_hint=not tool.changes, destructive_hint=name == "cancel_job", open_world_hint=False
    )
    return types.Tool(
        name=name, title=tool.title, description=tool.about, input_schema=dict(tool.schema), annotations=hints
    )


async def _call(ctx: _Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    tool = TOOLS.get(params.name)
    if tool is None:
        message = f"{quoted(params.name)} is not a tool; accepted: {', '.join(TOOLS)}"
        raise MCPError(types.INVALID_PARAMS, message)
    assert ctx.request is not None  # every request comes over HTTP
    exchange: Exchange = ctx.request.scope[SCOPE]
    app: FastAPI = ctx.request.app
    with CALLS.begun(exchange.session, ctx.request_id) as call:
        async with _cancelled_with(call, ctx, app):
            try:
                service: Service = app.state.service
                base_url = str(ctx.request.base_url).rstrip("/")
                sent = exchange.with_images(params.arguments or {})
                sent = await with_addressed(tool.fields, sent, service, base_url)
                fields = tool.arguments.model_validate(sent).model_dump()
                sent.clear()  # or its images would stay until the job has ended
                asker = Asker(
                    service,
                    app.state.queue,
                    app.state.models,
                    client_of(ctx.request.scope),
                    base_url,
                    call,
                    _on_progress(ctx),
                    exchange.forget_images,
                )
                return _result(await tool.run(asker, fields))
            except Exception as error:
                known = as_api_error(error)
                if known is None:
                    log.error("a tool failed", exc_info=error)
                return _refusal(known or internal(), call)


@asynccontextmanager
async def _cancelled_with(call: Call, ctx: _Context, app: FastAPI) -> AsyncIterator[None]:
    """Cancel the call's job if the client cancels the call by closing its connection.

    That is how clients cancel since the protocol's version of 2026-07-28. Before, a closed connection says nothing, and
    `notifications/cancelled` cancels.
    """
    try:
        yield
    except anyio.get_cancelled_exc_class():
        closed = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and not app.state.shutdown.is_begun
        if closed and call.job_id is not None:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(app.state.service.cancel, call.job_id)
        raise


def _on_progress(ctx: _Context) -> OnProgress | None:
    if ctx.meta is None or ctx.meta.get("progress_token") is None:
        return None

    async def tell(done: float, total: float | None, sentence: str) -> None:
        await ctx.session.report_progress(done, total, sentence)

    return tell


def _result(reply: Reply) -> types.CallToolResult:
    images = [
        types.ImageContent(data=base64.b64encode(picture.data).decode(), mime_type=picture.media_type)
        for picture in reply.pictures
    ]
    return types.CallToolResult(
        content=[*images, types.TextContent(text=reply.text)], structured_content=dict(reply.value)
    )


def _refusal(error: ApiError, call: Call) -> types.CallToolResult:
    """Return the result of a tool that failed: the language model reads it and can call again."""
    retry = error.headers.get("Retry-After")
    text = error.message if retry is None else f"{error.message}; try again in {retry} s"
    value = {"error": error_out(error), **({} if call.job_id is None else {"job_id": call.job_id})}
    return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=value, is_error=True)


_SERVER: Server[dict[str, Any]] = Server(
    "anemone",
    version=__version__,
    title="Anemone",
    instructions=_ABOUT,
    on_list_tools=_list,
    on_call_tool=_call,
    # None of our tools' arguments is sent in a header; without this the SDK would list the tools at every call.
    get_tool_input_schema=lambda name: None,
)


async def respond(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request. The gate has checked its host, origin, key and size, so the SDK checks none of these."""
    # One for each request, which keeps nothing: sessions would end with the server, and after a while unused.
    manager = StreamableHTTPSessionManager(_SERVER, stateless=True, max_request_body_size=LARGEST_BODY)
    async with manager.run():
        await manager.handle_request(scope, receive, send)
