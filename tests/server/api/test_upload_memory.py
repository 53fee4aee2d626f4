from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.api.upload_memory import UploadMemory
from server.errors import ApiError


def scope(client: str, size: int | None) -> dict[str, Any]:
    length = (b"transfer-encoding", b"chunked") if size is None else (b"content-length", str(size).encode())
    return {"client": (client, 1), "headers": [length]}


class Uploads:
    """Uploads that a test starts and ends by name."""

    def __init__(self, memory: UploadMemory) -> None:
        self._memory = memory
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.running: list[str] = []

    async def start(self, name: str, size: int | None) -> None:
        """Start an upload of the client that the name's first letter stands for."""
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._run(name, size))
        await self._settled()

    async def _run(self, name: str, size: int | None) -> None:
        async with self._memory.reserve(scope(name[0], size)):
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks[name]
        await self._settled()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._tasks[name]
        await self._settled()

    async def _settled(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def test_uploads_wait_until_they_fit() -> None:
    async def scenario() -> None:
        uploads = Uploads(UploadMemory(100, 0))
        for name in ("a1", "b1", "c1", "d1"):
            await uploads.start(name, 50)
        assert uploads.running == ["a1", "b1"]
        await uploads.end("a1")
        assert uploads.running == ["b1", "c1"]
        await uploads.cancel("b1")
        assert uploads.running == ["c1", "d1"]
        await uploads.end("c1")
        await uploads.end("d1")

    asyncio.run(scenario())


def test_a_small_upload_does_not_wait_for_large_ones() -> None:
    async def scenario() -> None:
        uploads = Uploads(UploadMemory(100, 10))
        for name in ("a1", "b1", "a2"):
            await uploads.start(name, 50)
        await uploads.start("a3", 10)
        assert uploads.running == ["a1", "b1", "a3"]
        for name in ("a1", "b1", "a2", "a3"):
            await uploads.end(name)

    asyncio.run(scenario())


def test_one_client_leaves_half_to_the_others() -> None:
    async def scenario() -> None:
        uploads = Uploads(UploadMemory(100, 0))
        for name in ("a1", "a2", "a3", "b1"):
            await uploads.start(name, 30)
        assert uploads.running == ["a1", "b1"]
        await uploads.end("a1")
        assert uploads.running == ["b1", "a2"]
        for name in ("b1", "a2", "a3"):
            await uploads.end(name)
        assert uploads.running == []

    asyncio.run(scenario())


def test_one_client_has_one_large_upload_or_several_that_are_not() -> None:
    async def scenario() -> None:
        uploads = Uploads(UploadMemory())
        for name, size in (("a1", 5), ("a2", 3), ("a3", 3), ("b1", 40), ("b2", 2)):
            await uploads.start(name, size * 2**20)
        assert uploads.running == ["a1", "a2", "b1"]
        await uploads.end("a1")
        await uploads.end("b1")
        assert uploads.running == ["a2", "a3", "b2"]
        for name in ("a2", "a3", "b2"):
            await uploads.end(name)

    asyncio.run(scenario())


def test_small_uploads_do_not_keep_a_large_one_out() -> None:
    async def scenario() -> None:
        uploads = Uploads(UploadMemory(100, 0))
        await uploads.start("a1", 40)
        await uploads.start("b1", 40)
        await uploads.start("c1", 50)
        await uploads.start("d1", 10)
        assert uploads.running == ["a1", "b1"]
        await uploads.end("a1")
        assert uploads.running == ["b1", "c1", "d1"]
        for name in ("b1", "c1", "d1"):
            await uploads.end(name)

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [None, 10**12])
def test_an_upload_of_unknown_size_takes_as_much_as_any(size: int | None) -> None:
    async def scenario() -> None:
        uploads = Uploads(UploadMemory(100, 0))
        await uploads.start("a1", size)
        await uploads.start("b1", 51)
        await uploads.start("b2", 1)
        assert uploads.running == ["a1", "b1"]
        for name in ("a1", "b1", "b2"):
            await uploads.end(name)

    asyncio.run(scenario())


def test_an_upload_that_waits_too_long_is_told_when_to_retry() -> None:
    async def scenario() -> None:
        memory = UploadMemory(100, 0, patience=0.01)
        uploads = Uploads(memory)
        await uploads.start("a1", 50)
        with pytest.raises(ApiError) as caught:
            async with memory.reserve(scope("a", 50)):
                raise AssertionError("not admitted")
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "10"})
        await uploads.end("a1")
        await uploads.start("a2", 50)
        assert uploads.running == ["a2"]
        await uploads.end("a2")

    asyncio.run(scenario())
