"""Rate limits for each client."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Scope

#: The number of clients to remember; a forgotten client starts with a full bucket again.
_MOST_CLIENTS = 10_000


def client_of(scope: Scope) -> str:
    """Return the client's address; for IPv6 its /64 network, because one machine may use all of it."""
    text = scope["client"][0] if scope.get("client") else "unknown"
    try:
        address = ipaddress.ip_address(str(text).partition("%")[0])
    except ValueError:
        return str(text)
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address) if address.is_loopback else str(ipaddress.ip_network((address, 64), strict=False))


@dataclass
class _Bucket:
    tokens: float
    seen: float


class Buckets:
    """A token bucket for each client, with up to ``a_minute`` tokens; it refills within a minute."""

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = a_minute, clock
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

    def wait(self, client: str) -> float:
        """Return the seconds until ``client`` has a token, 0 if it has one."""
        return max(0.0, (1 - self._bucket(client).tokens) * 60 / self._most)

    def take(self, client: str) -> float:
        """Take a token of ``client`` and return 0, or return the seconds until it has one."""
        bucket = self._bucket(client)
        if bucket.tokens < 1:
            return (1 - bucket.tokens) * 60 / self._most
        bucket.tokens -= 1
        return 0.0
