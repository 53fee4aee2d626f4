"""The memory that uploads share: large bodies are read a few at a time, and the others wait unread.

Small uploads have a share of their own: with one for all, one of 300 KB waited up to 31 s behind 40 large ones.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import Scope

from server.errors import ApiError
from server.security.body import LARGEST_BODY, announced
from server.security.rate import client_of

#: Bytes of all large uploads that are being read and decoded. One client gets half, so that it cannot keep the others out.
_TOTAL = 2 * LARGEST_BODY
#: Bytes of several uploads of one client. Decoding takes one at a time, and up to 250 MB; more of them would only wait beside it.
_SEVERAL = 8 * 2**20
#: Bytes of a small upload, and of all of them.
_SMALL, _SMALL_TOTAL = 2**20, 16 * 2**20
#: Seconds that an upload may wait, which costs little: a script may send 50 photos of 12 MB at once over slow Wi-Fi.
_PATIENCE = 600.0
_RETRY_SECONDS = 10


@dataclass(eq=False)
class _Waiting:
    client: str
    size: int
    admitted: asyncio.Event = field(default_factory=asyncio.Event)


class _Share:
    """Shares a number of bytes between uploads, in the order of their arrival."""

    def __init__(self, total: int, patience: float) -> None:
        self._total, self._patience = total, patience
        self._several = min(_SEVERAL, total // 2)
        self._used: Counter[str] = Counter()
        self._waiting: list[_Waiting] = []

    @asynccontextmanager
    async def reserve(self, client: str, size: float) -> AsyncIterator[None]:
        upload = _Waiting(client, int(min(size, self._total // 2)))
        self._waiting.append(upload)
        try:
            self._admit()
            try:
                async with asyncio.timeout(self._patience):
                    await upload.admitted.wait()
            except TimeoutError:
                message = f"other uploads kept the server busy for {self._patience:g} seconds; try again later"
                raise ApiError(503, "busy", message, headers={"Retry-After": str(_RETRY_SECONDS)}) from None
            yield
        finally:
            if upload in self._waiting:
                self._waiting.remove(upload)
            elif upload.admitted.is_set():
                self._used[upload.client] -= upload.size
                self._used += Counter()  # forgets clients without uploads
            self._admit()

    def _admit(self) -> None:
        for upload in list(self._waiting):
            used = self._used[upload.client]
            if used and used + upload.size > self._several:
                continue
            if self._used.total() + upload.size > self._total:
                return  # later ones wait too, or small ones would keep a large one out
            self._used[upload.client] += upload.size
            self._waiting.remove(upload)
            upload.admitted.set()


class UploadMemory:
    """The memory of all uploads."""

    def __init__(self, total: int = _TOTAL, small: int = _SMALL, patience: float = _PATIENCE) -> None:
        """``total``: bytes of all large uploads together; ``small``: the largest size in bytes of a small upload."""
        self._large, self._small = _Share(total, patience), _Share(_SMALL_TOTAL, patience)
        self._most_of_small = small

    def reserve(self, scope: Scope) -> AbstractAsyncContextManager[None]:
        """Wait until the request's body fits, and keep its bytes for the block. Read the body only in there.

        Raises ApiError 503 after too long a wait.
        """
        size = announced(scope)
        share = self._small if size <= self._most_of_small else self._large
        return share.reserve(client_of(scope), size)
