"""The socket that the server listens on, and the addresses at which clients reach it."""

from __future__ import annotations

import errno
import socket

from converter.errors import AnemoneError
from server.security.hosts import own_addresses, own_ipv6_addresses, own_names


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address (or ``localhost``) of this machine; ``::`` has IPv4 too.

    Raises AnemoneError, which says what is wrong with the address or the port and what can be used instead.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Only the resolver reads the interface of a link-local address (fe80::1%en0).
        address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
        # The protocol must be TCP: only then does asyncio turn off Nagle's algorithm, which would delay answers by 40 ms.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise AnemoneError(_explained(error, host, port)) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise AnemoneError(_explained(error, host, port)) from error
    return listening


def _explained(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use by another program, perhaps another server of Anemone; stop that one, or "
            "choose another --port (0 takes any free one)"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} of {host} needs an administrator's rights; choose a --port from 1024 on"
    if isinstance(error, socket.gaierror) or error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL, errno.EAFNOSUPPORT):
        accepted = ", ".join((*own_addresses(), *own_ipv6_addresses(), *own_ipv6_addresses(link_local=True)))
        return (
            f"--host {host} is not an address of this machine; accepted: 127.0.0.1 or ::1 for this machine only, 0.0.0.0 or "
            f":: for all of its addresses, or one of them{f': {accepted}' if accepted else ''}"
        )
    return f"port {port} of {host} cannot be used: {error.strerror}"


def urls(host: str, port: int, scheme: str) -> str:
    """Return as text where clients reach a server that listens on ``host``."""
    hosts = {
        "0.0.0.0": (*_bonjour_names(), *own_addresses()),
        "::": (*_bonjour_names(), *own_addresses(), *own_ipv6_addresses()),
    }.get(host, (host,))
    return ", ".join(f"{scheme}://{_in_url(host)}:{port}" for host in hosts)


def _bonjour_names() -> tuple[str, ...]:
    return tuple(name for name in own_names() if name.endswith(".local"))


def _in_url(host: str) -> str:
    # RFC 6874: the interface of a link-local address is separated by an encoded percent sign.
    return f"[{host.replace('%', '%25')}]" if ":" in host else host
