"""Events of jobs, conversions and models: published from any thread, read in the event loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

#: The states of a job, and of a conversion.
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
EndStatus = Literal["succeeded", "failed", "cancelled"]
OPEN: tuple[Status, ...] = ("queued", "running")
END: tuple[EndStatus, ...] = ("succeeded", "failed", "cancelled")

#: Events of one channel that a reader who was cut off may still get; previews make them some kilobytes each.
KEPT = 32


@dataclass(frozen=True)
class Event:
    """An event of a channel. ``last`` is true of the channel's last one."""

    id: int
    kind: str
    data: dict[str, Any]
    last: bool


class Subscription(AsyncIterator[Event]):
    """Iterates over a channel's events from now on, or after the one that the reader names, to the last one or to `close`.

    start: the id of the newest event when it began.
    is_complete: whether it has all events after the one that the reader names; if not (it names none, or too many came
        since), the reader must read the present state itself.
    """

    def __init__(self, log: EventLog, channel: str, start: int, is_complete: bool, missed: list[Event]) -> None:
        self._log, self._channel = log, channel
        self.start, self.is_complete = start, is_complete
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        # If the reader is too slow, the oldest events are dropped; the last event never is.
        self._pending: deque[Event] = deque(missed, KEPT)
        self._over = False

    def _offer(self, event: Event | None) -> None:
        """Add an event, or None for the end; called from any thread, with the log's lock."""
        if event is None:
            self._over = True
        else:
            self._pending.append(event)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    async def __anext__(self) -> Event:
        while not self._pending:
            if self._over:
                raise StopAsyncIteration
            self._changed.clear()
            if not self._pending and not self._over:
                await self._changed.wait()
        event = self._pending.popleft()
        if event.last:
            self._over = True
        return event

    def close(self) -> None:
        """End the subscription."""
        self._log.unsubscribe(self._channel, self)


class _Channel:
    def __init__(self, since: int) -> None:
        #: Events with ids up to this may be missing.
        self.since = since
        self.events: deque[Event] = deque()
        self.readers: set[Subscription] = set()


class EventLog:
    """Channels of events, one for each job, conversion and model. A channel is dropped after its last event.

    Ids grow over all channels, and over a restart too: they begin at the clock's milliseconds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count(time.time_ns() // 10**6)
        self._newest = next(self._ids)
        self._channels: dict[str, _Channel] = {}
        self._closed = False

    def publish(self, channel: str, kind: str, data: dict[str, Any], *, last: bool = False) -> None:
        """Send an event to a channel's readers, and keep it for those that come back; ``last`` ends the channel."""
        with self._lock:
            record = self._channels.get(channel)
            if record is None:
                record = self._channels[channel] = _Channel(self._newest)
            self._newest = next(self._ids)
            event = Event(self._newest, kind, data, last)
            record.events.append(event)
            if len(record.events) > KEPT:
                record.since = record.events.popleft().id
            for reader in record.readers:
                reader._offer(event)
            if last:
                del self._channels[channel]

    def subscribe(self, channel: str, after: int | None = None) -> Subscription:
        """Return a subscription to a channel; with ``after``, the id of the last event that the reader has, from there.

        To be called in an event loop, and before the present state is read: an event in between is then not lost.
        """
        with self._lock:
            record = self._channels.get(channel)
            is_complete = record is not None and after is not None and record.since <= after <= self._newest
            missed = [e for e in record.events if after is not None and e.id > after] if record and is_complete else []
            reader = Subscription(self, channel, self._newest, is_complete, missed)
            if self._closed:
                reader._offer(None)
            else:
                self._channels.setdefault(channel, _Channel(self._newest)).readers.add(reader)
            return reader

    def unsubscribe(self, channel: str, reader: Subscription) -> None:
        """End a subscription, if it has not ended."""
        with self._lock:
            record = self._channels.get(channel)
            if record is not None:
                record.readers.discard(reader)
                if not record.readers and not record.events:
                    del self._channels[channel]

    def watched(self) -> list[str]:
        """Return the channels that have readers."""
        with self._lock:
            return [name for name, channel in self._channels.items() if channel.readers]

    def close(self) -> None:
        """End all subscriptions: the server is stopping."""
        with self._lock:
            self._closed = True
            for channel in self._channels.values():
                for reader in channel.readers:
                    reader._offer(None)
