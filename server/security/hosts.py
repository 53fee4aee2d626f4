"""Which names this server answers to.

A page of any site can reach it by a name of that site's own that resolves here (DNS rebinding: Ollama's CVE-2024-28224),
so names are checked wherever it listens. An address cannot be rebound; one that is this machine's own is answered.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil


def host_of(header: str) -> str:
    """The name in a Host header, without its port, in lower case; empty where it is malformed."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_loopback(text: str) -> bool:
    """Whether an address is this machine's own, reached from nowhere else; a name never is."""
    found = _address(text)
    return found is not None and found.is_loopback


def own_names() -> tuple[str, ...]:
    """What this machine is called on its network, in lower case: its host name, alone and under Bonjour's ``.local``."""
    full = socket.gethostname().lower().rstrip(".")
    short = full.partition(".")[0]
    return tuple(sorted({full, short, f"{short}.local"}))


def own_addresses() -> tuple[str, ...]:
    """This machine's IPv4 addresses at this moment, but for loopback's."""
    found = {a.address for addresses in psutil.net_if_addrs().values() for a in addresses if a.family == socket.AF_INET}
    return tuple(sorted(a for a in found if not is_loopback(a)))


@dataclass(frozen=True)
class Hosts:
    """The names that are answered.

    on_network: other machines can connect. ``.local`` is taken only then, when a key is asked for as well: whoever
    shares the network can point such a name at 127.0.0.1.
    names: further ones, in lower case.
    """

    on_network: bool = False
    names: tuple[str, ...] = ()

    def accepts(self, host: str, reached: str | None) -> bool:
        """Whether a request for ``host`` that arrived at this machine's address ``reached`` is answered."""
        if host == "localhost" or host.endswith(".localhost") or host in self.names:
            return True
        address = _address(host)
        if address is not None:
            return address.is_loopback or (self.on_network and reached is not None and address == _address(reached))
        return self.on_network and (host.endswith(".local") or host in own_names())

    @property
    def accepted(self) -> str:
        """The names in words, for the refusal."""
        network = (*own_names(), "this machine's address") if self.on_network else ()
        return ", ".join(("localhost", "127.0.0.1", *network, *self.names))
