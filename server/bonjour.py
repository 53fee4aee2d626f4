"""Telling the local network by Bonjour (mDNS, DNS-SD) that the server is here; never how to get in."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil
from zeroconf import Error, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from converter import __version__

log = logging.getLogger("anemone.bonjour")
#: Goodbyes are sent thrice; a network that is gone must not hold up the server's end.
_GOODBYE_SECONDS = 2.0


@dataclass(frozen=True)
class Announcement:
    """What is told: the address the server listens on (0.0.0.0 and :: are all of the machine's), its port, whether TLS."""

    host: str
    port: int
    tls: bool


def _addresses(host: str) -> list[str]:
    given = ipaddress.ip_address(host)
    if not given.is_unspecified:
        return [host]
    families = (socket.AF_INET,) if given.version == 4 else (socket.AF_INET, socket.AF_INET6)
    found = [a.address for addresses in psutil.net_if_addrs().values() for a in addresses if a.family in families]
    # A link-local address of IPv6 says nothing without its interface's name, which other machines call otherwise.
    return [a for a in found if "%" not in a and not ipaddress.ip_address(a).is_loopback]


def services(announcement: Announcement, hostname: str, addresses: list[str]) -> list[ServiceInfo]:
    """The services to register: one that browsers list, and one that clients of Anemone look for."""
    machine = hostname.partition(".")[0] or "anemone"
    told = {"path": "/", "version": __version__, "tls": "1" if announcement.tls else "0"}
    return [
        ServiceInfo(
            kind,
            # The part before the type is one label of at most 63 bytes.
            f"Anemone on {machine[:50]}.{kind}",
            port=announcement.port,
            properties=told,
            server=f"{machine}.local.",
            parsed_addresses=addresses,
        )
        for kind in ("_https._tcp.local." if announcement.tls else "_http._tcp.local.", "_anemone._tcp.local.")
    ]


async def _register(zeroconf: AsyncZeroconf, infos: list[ServiceInfo]) -> None:
    try:
        for info in infos:
            # Another machine of the same name makes it "... (2)".
            await (await zeroconf.async_register_service(info, allow_name_change=True))
            log.info("announced as %s", info.name)
    except (Error, OSError) as error:
        log.warning("the server is not announced by Bonjour: %s", error)


@asynccontextmanager
async def announced(
    announcement: Announcement, connect: Callable[[], AsyncZeroconf] = AsyncZeroconf
) -> AsyncIterator[None]:
    """Announce the server inside; at the end say that it is gone. A network that cannot be told of it is logged."""
    try:
        zeroconf = connect()
    except OSError as error:
        log.warning("the server is not announced by Bonjour: %s", error)
        yield
        return
    infos = services(announcement, socket.gethostname(), _addresses(announcement.host))
    # Asking whether a name is free takes a second or two, which the first request need not wait for.
    registering = asyncio.create_task(_register(zeroconf, infos))
    try:
        yield
    finally:
        registering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await registering
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await zeroconf.async_unregister_all_services()
        await zeroconf.async_close()
