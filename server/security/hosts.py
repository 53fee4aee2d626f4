"""The host names that this server answers to.

Any site can point its own host name at this machine, and its pages then reach the server (DNS rebinding: Ollama's
CVE-2024-28224), so names are always checked. Addresses cannot be rebound; this machine's own are accepted.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

import psutil

#: A Host header: a name or an address, IPv6 in brackets, and a port. User names, paths and other marks have no place in it.
_HOST = re.compile(r"(\[[0-9a-f:.]+(?:%[0-9a-z._~%-]+)?\]|[0-9a-z._-]+)(?::\d{0,5})?", re.IGNORECASE | re.ASCII)


def host_of(header: str) -> str:
    """Return the name in a Host header without its port, in lower case; empty if it is malformed."""
    match = _HOST.fullmatch(header)
    return match[1].strip("[]").lower().removesuffix(".") if match is not None else ""


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(text: str) -> bool:
    """Return whether the text is a loopback address; False for names."""
    address = _address(text)
    return address is not None and address.is_loopback


def own_names() -> tuple[str, ...]:
    """Return this machine's names on its network, in lower case: its host name, alone and under Bonjour's ``.local``."""
    full = socket.gethostname().lower().rstrip(".")
    short = full.partition(".")[0]
    return tuple(sorted({full, short, f"{short}.local"}))


def own_addresses() -> tuple[str, ...]:
    """Return this machine's current IPv4 addresses, except loopback addresses."""
    return tuple(a for a in _addresses_of(socket.AF_INET) if not is_loopback(a))


def own_ipv6_addresses(link_local: bool = False) -> tuple[str, ...]:
    """Return this machine's current IPv6 addresses that other networks reach, or its link-local ones with their interface."""
    return tuple(
        a
        for a in _addresses_of(socket.AF_INET6)
        if not is_loopback(a) and ipaddress.ip_address(a).is_link_local == link_local
    )


def _addresses_of(family: socket.AddressFamily) -> list[str]:
    interfaces = psutil.net_if_addrs().values()
    return sorted({a.address for interface in interfaces for a in interface if a.family == family})


@dataclass(frozen=True)
class Hosts:
    """The names that the server answers to.

    on_network: other machines can connect. ``.local`` names are accepted only then, because a key is then required:
        anyone on the network can point such a name at 127.0.0.1.
    names: further names, in lower case.
    """

    on_network: bool = False
    names: tuple[str, ...] = ()

    def accepts(self, host: str, reached: str | None) -> bool:
        """Return whether to answer a request for ``host`` that arrived at this machine's address ``reached``."""
        if host == "localhost" or host.endswith(".localhost") or host in self.names:
            return True
        address = _address(host)
        if address is not None:
            return address.is_loopback or (self.on_network and reached is not None and address == _address(reached))
        return self.on_network and (host.endswith(".local") or host in own_names())
