"""The route of all MCP's requests: reads the message and hands it to the SDK, which is imported at the first one."""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from server.api.accept import preferred
from server.api.dependencies import Answers, Generation, Memory
from server.api.dialect import body_limit
from server.api.forms import json_only
from server.api.image_json import read_image_json
from server.api.mcp import PATH
from server.api.mcp.calls import CALLS
from server.api.mcp.errors import error
from server.api.mcp.exchange import SCOPE, Exchange
from server.errors import ApiError, quoted
from server.security.body import LARGEST_BODY

router = APIRouter(tags=["mcp"])

_JSON, _EVENTS = "application/json", "text/event-stream"
_MESSAGE = {"type": "object", "additionalProperties": True, "description": "A request or notification in JSON-RPC 2.0"}
_ANSWERS: Answers = {
    200: {
        "description": "The result, or an error, in JSON-RPC 2.0; as an event stream also the progress before it",
        "content": {_JSON: {"schema": {"type": "object"}}, _EVENTS: {"schema": {"type": "string"}}},
    },
    202: {"description": "A notification was received"},
    400: error("The body is not a message, or its protocol's version is not one of ours"),
    404: error("The method does not exist"),
    406: error("The Accept header does not take both JSON and event streams"),
    415: error("The body's type is not application/json"),
    422: error("An object of the message has a name twice"),
    501: error("The server was installed without MCP"),
}


async def _require_sdk() -> None:
    if find_spec("mcp") is None:
        message = "this server was installed without MCP; its owner can add it: pip install 'anemone[mcp]'"
        raise ApiError(501, "not_installed", message)


async def _require_accept(request: Request) -> None:
    accept = ", ".join(request.headers.getlist("Accept"))
    if any(preferred(accept, (kind,)) is None for kind in (_JSON, _EVENTS)):
        message = f"the Accept header is {quoted(accept)}; accepted: {_JSON}, {_EVENTS} (both)"
        raise ApiError(406, "not_acceptable", message, field="Accept", value=accept, accepted=f"{_JSON}, {_EVENTS}")


def _require_message(document: Any) -> None:
    """Raise ApiError if a body is no message, or calls a tool wrongly: the SDK does not say what is wrong with it."""
    if not isinstance(document, dict):
        message = f"the body is {quoted(document)}; accepted: one request or notification in JSON-RPC 2.0"
        raise ApiError(400, "invalid_message", message)
    calls = document.get("method") == "tools/call"
    params = document.get("params", {})
    inner = params if isinstance(params, dict) else {}
    meta, arguments = inner.get("_meta"), inner.get("arguments")
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    for field, value, is_right, accepted in (
        ("jsonrpc", document.get("jsonrpc"), document.get("jsonrpc") == "2.0", "'2.0'"),
        ("method", document.get("method"), isinstance(document.get("method"), str), "a text"),
        ("id", document.get("id"), "id" not in document or type(document["id"]) in (int, str), "an integer or a text"),
        ("params", params, isinstance(params, dict), "an object"),
        ("params._meta", meta, isinstance(meta, dict | None), "an object"),
        ("params._meta.progressToken", token, token is None or type(token) in (int, str), "an integer or a text"),
        ("params.name", inner.get("name"), not calls or isinstance(inner.get("name"), str), "a tool's name"),
        ("params.arguments", arguments, not calls or isinstance(arguments, dict | None), "an object"),
    ):
        if not is_right:
            message = f"{field} is {quoted(value)}; accepted: {accepted}"
            raise ApiError(400, "invalid_message", message, field=field, value=value, accepted=accepted)


class _Exchanged(Response):
    """The answer that the SDK gives to a message."""

    def __init__(self, exchange: Exchange, message: bytes, begins_session: bool) -> None:
        super().__init__()
        self._exchange, self._message, self._begins_session = exchange, message, begins_session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        # 0.4 s and 23 MB, which a server without such clients does not need.
        respond = await run_in_threadpool(_responder)
        unread = [self._message]

        async def receive_message() -> Message:
            return {"type": "http.request", "body": unread.pop()} if unread else await receive()

        async def with_session(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and self._begins_session:
                # The SDK keeps nothing of a session, so none ends, not even with the server: its name only tells whose
                # calls a client cancels.
                message = {
                    **message,
                    "headers": [*message["headers"], (b"mcp-session-id", secrets.token_hex(16).encode())],
                }
            await send(message)

        try:
            await respond({**scope, SCOPE: self._exchange}, receive_message, with_session)
        finally:
            await self._exchange.forget_images()


def _responder() -> Any:
    from server.api.mcp.sdk import respond

    return respond


@router.post(
    PATH,
    responses=_ANSWERS,
    response_class=Response,
    dependencies=[Depends(_require_sdk), Depends(json_only), Depends(_require_accept)],
    openapi_extra={
        **body_limit(LARGEST_BODY),
        "requestBody": {"required": True, "content": {_JSON: {"schema": _MESSAGE}}},
    },
    summary="Send a message of the Model Context Protocol",
)
async def exchange(
    request: Request,
    service: Generation,
    memory: Memory,
    mcp_session_id: Annotated[
        str | None, Header(description="The session, as the answer to `initialize` named it")
    ] = None,
    mcp_protocol_version: Annotated[str | None, Header(description="The protocol's version, a date")] = None,
) -> Response:
    """For clients of the Model Context Protocol (streamable HTTP), which make images by calling tools."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(memory.reserve(request.scope))
        document = await read_image_json(request.stream())
        _require_message(document)
        if document["method"] == "notifications/cancelled" and mcp_session_id is not None:
            request_id = document.get("params", {}).get("requestId")
            job_id = CALLS.cancel(mcp_session_id, request_id) if isinstance(request_id, int | str) else None
            if job_id is not None:
                await run_in_threadpool(service.cancel, job_id)
        exchange = Exchange(mcp_session_id)
        message = exchange.message(document)
        exchange.room = stack.pop_all()
    if not exchange.has_images:  # a call that only waits for a job keeps nobody's upload waiting
        await exchange.forget_images()
    return _Exchanged(exchange, message, begins_session=document["method"] == "initialize")
