from __future__ import annotations

import errno
import socket

import pytest

from converter.errors import AnemoneError
from server.cli import listening
from server.cli.listening import listening_socket, urls
from server.security.gate import Access
from server.security.hosts import Hosts, own_addresses, own_ipv6_addresses
from tests.support.small_server import small


def _has_ipv6() -> bool:
    try:
        listening_socket("::1", 0).close()
    except AnemoneError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="needs IPv6")


def answered(host: str, at: str, name: str) -> bytes:
    """Return the status line for a request to ``at`` by the name ``name``, of a server that listens on ``host``."""
    on_network = host not in ("127.0.0.1", "localhost", "::1")
    with small(listening=listening_socket(host, 0), access=Access(Hosts(on_network))) as running:
        address = socket.getaddrinfo(at, running.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(*address[:3]) as connection:
            connection.settimeout(20)
            connection.connect(address[4])
            connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {name}:{running.port}\r\n\r\n".encode())
            return connection.recv(4096).partition(b"\r\n")[0]


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "::"])
def test_an_ipv6_server_answers_under_its_address(host: str) -> None:
    assert answered(host, "::1", "[::1]") == b"HTTP/1.1 200 OK"
    assert answered(host, "::1", "localhost") == b"HTTP/1.1 200 OK"
    assert answered(host, "::1", "[::2]").startswith(b"HTTP/1.1 403 ")


@needs_ipv6
def test_all_addresses_include_those_of_ipv4() -> None:
    assert answered("::", "127.0.0.1", "127.0.0.1") == b"HTTP/1.1 200 OK"
    for own in own_addresses():
        assert answered("::", own, own) == b"HTTP/1.1 200 OK"


@needs_ipv6
@pytest.mark.parametrize("listens", ["::", "itself"])
def test_a_machines_own_ipv6_addresses_are_answered(listens: str) -> None:
    for own in (*own_ipv6_addresses(), *own_ipv6_addresses(link_local=True)):
        host = own if listens == "itself" else listens
        # Clients leave the interface out of the Host header.
        assert answered(host, own, f"[{own.partition('%')[0]}]") == b"HTTP/1.1 200 OK", own


def test_localhost_is_this_machine() -> None:
    assert answered("localhost", "127.0.0.1", "localhost") == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    "host", ["203.0.113.9", *(["2001:db8::9", "fe80::1", "fe80::1%nothing0"] if _has_ipv6() else [])]
)
def test_an_address_of_another_machine_is_refused_with_this_machines(host: str) -> None:
    with pytest.raises(AnemoneError) as refused:
        listening_socket(host, 0)
    message = str(refused.value)
    assert host in message
    assert "not an address of this machine" in message
    for own in (*own_addresses(), "0.0.0.0"):
        assert own in message
    assert "another --port" not in message


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AnemoneError, match=f"port {port} of 127.0.0.1 is in use.*another --port"):
            listening_socket("127.0.0.1", port)


def test_a_port_that_needs_rights_is_named_with_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listening.socket, "socket", Forbidden)
    with pytest.raises(AnemoneError, match=r"port 80 of 127\.0\.0\.1 needs an administrator's rights.*from 1024 on"):
        listening_socket("127.0.0.1", 80)


def test_the_addresses_shown_are_those_that_clients_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "own_names", lambda: ("mac", "mac.local"))
    monkeypatch.setattr(listening, "own_addresses", lambda: ("192.168.1.2",))
    monkeypatch.setattr(listening, "own_ipv6_addresses", lambda: ("2001:db8::2",))
    assert urls("127.0.0.1", 7860, "http") == "http://127.0.0.1:7860"
    assert urls("::1", 7860, "http") == "http://[::1]:7860"
    assert urls("0.0.0.0", 7860, "https") == "https://mac.local:7860, https://192.168.1.2:7860"
    assert urls("::", 1, "http") == "http://mac.local:1, http://192.168.1.2:1, http://[2001:db8::2]:1"
    assert urls("fe80::2%en0", 7860, "http") == "http://[fe80::2%25en0]:7860"
