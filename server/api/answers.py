"""Parts of answers that several dialects give: images as base64, JSON that is sent while it is read, notes as a header."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence

from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

#: Bytes of an image that is encoded at once: a megabyte takes a millisecond, changing to a thread and back 0.2 ms.
_SMALL = 2**20


async def base64_of(image: bytes) -> str:
    """Return an image as base64, without the head of a ``data:`` URI."""
    encoded = base64.b64encode(image) if len(image) < _SMALL else await run_in_threadpool(base64.b64encode, image)
    return encoded.decode()


async def streamed_json(parts: AsyncIterator[bytes], headers: Mapping[str, str]) -> Response:
    """Answer with JSON that is sent as it is read: ten large images at once would take a gigabyte.

    Raises what the first part raises, before the answer has begun.
    """
    first = await anext(parts)

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for part in parts:
            yield part

    return StreamingResponse(whole(), 200, dict(headers), "application/json")


async def json_list(head: str, items: AsyncIterator[str]) -> AsyncIterator[bytes]:
    """Yield JSON up to the end of a list, whose items it has one by one: ``head``, which ends in a bracket, with the first."""
    before = head
    async for item in items:
        yield f"{before}{item}".encode()
        before = ","
    yield b"]" if before == "," else f"{head}]".encode()


def notes_headers(notes: Sequence[str]) -> dict[str, str]:
    """Return the header that tells notes, if there are any. A space at a header's end would be no header."""
    return {"X-Anemone-Notes": "; ".join(notes).encode("ascii", "backslashreplace").decode().strip()} if notes else {}
