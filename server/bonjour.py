"""Announces the server on the local network by Bonjour (mDNS, DNS-SD); it never announces the API key."""

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
#: Goodbyes are sent three times; a lost network must not delay the server's exit.
_GOODBYE_SECONDS = 2.0


@dataclass(frozen=True)
class Announcement:
    """The address that the server listens on (0.0.0.0 and :: are all of the machine's), its port, and whether it uses TLS."""

    host: str
    port: int
    tls: bool


def addresses(host: str) -> list[str]:
    """Return the addresses to announce for a server that listens on ``host``."""
    address = ipaddress.ip_address(host)
    if not address.is_unspecified:
        return [host.partition("%")[0]]  # clients add their own interface to a link-local address
    families = (socket.AF_INET,) if address.version == 4 else (socket.AF_INET, socket.AF_INET6)
    own = [a.address for interface in psutil.net_if_addrs().values() for a in interface if a.family in families]
    # A link-local IPv6 address needs the name of the interface, which differs from machine to machine.
    return [a for a in own if "%" not in a and not ipaddress.ip_address(a).is_loopback]


def services(announcement: Announcement, hostname: str, addresses: list[str]) -> list[ServiceInfo]:
    """Return the services to register: one that browsers list, and one that Anemone's clients look for."""
    machine = hostname.partition(".")[0] or "anemone"
    properties = {"path": "/", "version": __version__, "tls": "1" if announcement.tls else "0"}
    return [
        ServiceInfo(
            kind,
            # The part before the type is one label of at most 63 bytes.
            f"Anemone on {machine[:50]}.{kind}",
            port=announcement.port,
            properties=properties,
            server=f"{machine}.local.",
            parsed_addresses=addresses,
        )
        for kind in ("_https._tcp.local." if announcement.tls else "_http._tcp.local.", "_anemone._tcp.local.")
    ]


async def _register(zeroconf: AsyncZeroconf, infos: list[ServiceInfo]) -> None:
    try:
        for info in infos:
            # If another machine has the name, zeroconf appends "(2)".
            await (await zeroconf.async_register_service(info, allow_name_change=True))
            log.info("announced as %s", info.name)
    except (Error, OSError) as error:
        log.warning("the server is not announced by Bonjour: %s", error)


@asynccontextmanager
async def announced(
    announcement: Announcement, connect: Callable[[], AsyncZeroconf] = AsyncZeroconf
) -> AsyncIterator[None]:
    """Announce the server during the block, and withdraw it at the end. Failures are logged."""
    try:
        zeroconf = connect()
    except OSError as error:
        log.warning("the server is not announced by Bonjour: %s", error)
        yield
        return
    infos = services(announcement, socket.gethostname(), addresses(announcement.host))
    # Registration takes a second or two, as it asks whether the name is free; requests are served meanwhile.
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
