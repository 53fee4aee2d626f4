"""Rate limits for each client."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Scope

#: The number of clients to remember; a forgotten client starts with a full bucket again.
_MOST_CLIENTS = 10_000


#: This machine, as a client.
LOOPBACK = "127.0.0.1"


def client_of(scope: Scope) -> str:
    """Return the request's client, as `client_at` does."""
    return client_at(str(scope["client"][0])) if scope.get("client") else "unknown"


def client_at(text: str) -> str:
    """Return the client at this address: the address; for IPv6 its /64 network, because one machine may use all of it.

    All of this machine's programs are one client: 127.0.0.0/8 has 16 million addresses.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return LOOPBACK
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))


@dataclass
class _Bucket:
    tokens: float
    seen: float


class Buckets:
    """A token bucket for each client, with up to ``a_minute`` tokens; it refills within a minute.

    Safe to call from several threads. The clock is monotonic: setting the machine's time changes nothing.
    """

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = a_minute, clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def _bucket(self, client: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(client) or _Bucket(self._most, now)
        bucket.tokens = min(self._most, bucket.tokens + (now - bucket.seen) * self._most / 60)
        bucket.seen = now
        self._buckets[client] = bucket
        self._buckets.move_to_end(client)
        if len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return bucket

    def take(self, client: str) -> float:
        """Take a token of ``client`` and return 0, or return the seconds until it has one."""
        with self._lock:
            bucket = self._bucket(client)
            if bucket.tokens < 1:
                return (1 - bucket.tokens) * 60 / self._most
            bucket.tokens -= 1
            return 0.0

    def give_back(self, client: str) -> None:
        """Give back a token that ``client`` took; a client with all its tokens is forgotten."""
        with self._lock:
            bucket = self._bucket(client)
            bucket.tokens += 1
            if bucket.tokens >= self._most:
                del self._buckets[client]
