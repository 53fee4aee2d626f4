"""How many connections clients may hold, for how long, and which one is closed when another client comes.

A connection waits (for its handshake, the whole of a request, or the next request) or is busy with a request. One that waits costs
its client nothing to lose, so a newcomer takes the place of the one that has waited longest; a busy one is never closed for
it. Some places are kept from requests, so that a newcomer always gets in and at least reads that the server is busy.
"""

from __future__ import annotations

import logging
import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from server.logs import CONNECTIONS
from server.security.rate import LOOPBACK

log = logging.getLogger(CONNECTIONS)

#: In a request's ``extensions``: too many others are in progress, so it must be refused.
CROWDED = "anemone.crowded"
#: Connections at once if descriptors suffice. asyncio keeps a buffer of 256 KB for each one with TLS: 512 took 170 MB.
_MOST = 512
#: Descriptors for everything else: an idle server has 24 open, and a worker's start, a conversion or a backup add some.
_RESERVE = 96
_FEWEST = 16
#: macOS accepts no more than OPEN_MAX from a process whose hard limit is unlimited, and gives 256 unless one asks.
_WANTED = 10_240


def raise_open_files() -> int:
    """Raise the soft limit of open files as far as the system allows, to 10,240 at most; return the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    while soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
        except (OSError, ValueError):  # macOS: more than kern.maxfilesperproc
            wanted //= 2
    return _WANTED if soft == resource.RLIM_INFINITY else soft


@dataclass(frozen=True)
class ConnectionLimits:
    """What clients' connections may take.

    total: connections at once.
    per_client: connections at once of one address on the network; this machine's own have no limit but ``total``.
    handshake_seconds: for a TLS handshake.
    head_seconds: for a request's head, from the connection's begin or the request's first byte to the head's end.
    idle_seconds: until the next request.
    stall_seconds: for a client to take the next 64 KB of an answer.
    """

    total: int = _MOST
    per_client: int = _MOST // 4
    handshake_seconds: float = 10.0
    head_seconds: float = 10.0
    idle_seconds: float = 5.0
    stall_seconds: float = 30.0

    @classmethod
    def within(cls, open_files: int) -> ConnectionLimits:
        """Return the limits for a process that may have this many files open. A connection may need two: itself and a file."""
        total = max(_FEWEST, min(_MOST, (open_files - _RESERVE) // 2))
        return cls(total=total, per_client=max(_FEWEST, total // 4))


class Place:
    """One connection's place, from its acceptance to its end."""

    def __init__(self, connections: Connections, client: str) -> None:
        self._connections, self.client, self.is_busy = connections, client, False
        #: Closes the connection at once; its owner sets it.
        self.close: Callable[[], object] = lambda: None

    def start_request(self) -> bool:
        """Protect the connection while it is busy; return False if too many are."""
        self.is_busy = self.is_busy or self._connections.start_request(self)
        return self.is_busy

    def end_request(self) -> None:
        """Let the connection wait again, as the latest of those that wait."""
        if self.is_busy:
            self.is_busy = False
            self._connections.end_request(self)

    def leave(self) -> None:
        """Give the place back; to be called at least once when the connection has ended."""
        self.end_request()
        self._connections.leave(self)


class Connections:
    """All connections of a server by client, used by the event loop's thread."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        #: For each client those that wait; the one that has waited longest comes first.
        self._waiting: dict[str, dict[Place, None]] = {}
        self._busy: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of connections."""
        return sum(map(len, self._waiting.values())) + self.busy

    @property
    def busy(self) -> int:
        """The number of connections that are busy with a request."""
        return self._busy.total()

    def enter(self, client: str) -> Place:
        """Return a place for a new connection; if all are taken, close the one that has waited longest."""
        if (held := self._held(client)) >= self._most(client):
            log.warning("%s has %d connections, the most accepted: for each new one its oldest is closed", client, held)
            self._close_oldest(client)
        elif len(self) >= self._limits.total:
            self.make_room()
        place = Place(self, client)
        self._waiting.setdefault(client, {})[place] = None
        return place

    def make_room(self) -> None:
        """Close a connection of the client that has most waiting, if any waits."""
        if self._waiting:
            client = max(self._waiting, key=lambda name: len(self._waiting[name]))
            log.warning(
                "%d connections, %d of them %s's, are all that the server can hold: for each new one an idle one is closed",
                len(self),
                self._held(client),
                client,
            )
            self._close_oldest(client)

    def start_request(self, place: Place) -> bool:
        """Count a connection as busy; return False if as many are busy as may be."""
        client = place.client
        own, total = _for_requests(self._most(client)), _for_requests(self._limits.total)
        if self._busy[client] >= own or self.busy >= total:
            log.warning(
                "requests are refused: %d connections are busy, %d of them %s's",
                self.busy,
                self._busy[client],
                client,
            )
            return False
        self.leave(place)
        self._busy[client] += 1
        return True

    def end_request(self, place: Place) -> None:
        """Count a busy connection as waiting again."""
        self._busy[place.client] -= 1
        if not self._busy[place.client]:
            del self._busy[place.client]
        self._waiting.setdefault(place.client, {})[place] = None

    def leave(self, place: Place) -> None:
        """Forget a connection that waits."""
        waiting = self._waiting.get(place.client, {})
        waiting.pop(place, None)
        if not waiting:
            self._waiting.pop(place.client, None)

    def _held(self, client: str) -> int:
        return len(self._waiting.get(client, ())) + self._busy[client]

    def _most(self, client: str) -> int:
        return self._limits.total if client == LOOPBACK else self._limits.per_client

    def _close_oldest(self, client: str) -> None:
        place = next(iter(self._waiting[client]))
        self.leave(place)
        place.close()


def _for_requests(places: int) -> int:
    """Return how many of these places requests may take; the others are for newcomers."""
    return places - max(2, places // 8)
