"""Images of a message never reach the SDK: they are kept beside it, and only until the job is stored."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from server.api.image_json import EncodedImage, read_image_json
from server.api.mcp.exchange import Exchange
from server.errors import ApiError
from tests.support.mcp_client import call, text

#: Longer than any text that is no image.
LARGE = bytes(300_000)


async def exchanged(sent: dict[str, Any]) -> tuple[Exchange, dict[str, Any], list[str]]:
    async def parts() -> Any:
        yield json.dumps(sent).encode()

    given_back: list[str] = []
    room = AsyncExitStack()
    room.callback(given_back.append, "room")
    exchange = Exchange(None, room)
    return exchange, json.loads(exchange.message(await read_image_json(parts()))), given_back


def test_images_are_put_back_where_they_were() -> None:
    async def check() -> None:
        arguments = {"prompt": "a", "image": base64.b64encode(LARGE).decode(), "controls": [{"image": "aaaa"}]}
        exchange, message, given_back = await exchanged({"method": "tools/call", "params": arguments})
        assert len(json.dumps(message)) < 300
        restored = exchange.with_images(message["params"])
        assert isinstance(restored["image"], EncodedImage)
        assert restored["image"].data == LARGE
        assert (restored["prompt"], restored["controls"], given_back) == ("a", [{"image": "aaaa"}], [])
        await exchange.forget_images()
        assert given_back == ["room"]
        assert exchange.with_images(message["params"])["image"] == message["params"]["image"]

    asyncio.run(check())


def test_a_message_that_is_nested_too_deeply_is_refused() -> None:
    nested: Any = {}
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(ApiError, match="nested too deeply"):
        Exchange(None).message({"method": "ping", "params": {"a": nested}})


def test_a_large_image_is_read_as_the_native_call_reads_it(client: httpx.Client) -> None:
    arguments = {"prompt": "a", "image": base64.b64encode(LARGE).decode()}
    native = client.post("/api/v1/img2img", json=arguments).json()["error"]["message"]
    assert text(call(client, "edit_image", **arguments)) == native
