"""The calls of tools that are being answered: by a client's session and request id, so that it can cancel them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

RequestId: TypeAlias = int | str


@dataclass
class Call:
    """A call of a tool. ``job_id`` is that of the job that it made, once there is one."""

    job_id: str | None = None
    is_cancelled: bool = False


class Calls:
    """The calls in progress."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, RequestId], Call] = {}

    @contextmanager
    def begun(self, session: str | None, request_id: RequestId | None) -> Iterator[Call]:
        """Yield a new call, which the session can cancel during the block."""
        call = Call()
        if session is None or request_id is None:
            yield call
            return
        key = (session, request_id)
        self._open[key] = call
        try:
            yield call
        finally:
            if self._open.get(key) is call:
                del self._open[key]

    def cancel(self, session: str, request_id: RequestId) -> str | None:
        """Mark the session's call as cancelled; return the job that is to be cancelled with it, if it has made one."""
        call = self._open.get((session, request_id))
        if call is None:
            return None
        call.is_cancelled = True
        return call.job_id


#: Those of all apps of this process: a session is a random name.
CALLS = Calls()
