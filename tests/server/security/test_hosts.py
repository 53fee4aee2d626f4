from __future__ import annotations

import pytest

from server.security.gate import Access
from server.security.hosts import Hosts, host_of, own_names
from tests.support.asgi_client import LAN, ask, gated

OWN = "192.168.1.2"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "LOCALHOST.", "127.0.0.1:7860", "[::1]:7860", "a.localhost"]
)
@pytest.mark.parametrize("on_network", [False, True])
def test_this_machine_is_answered_under_its_loopback_names(host: str, on_network: bool) -> None:
    assert ask(gated(Access(Hosts(on_network))), headers={"host": host}).status == 200


@pytest.mark.parametrize("host", [OWN, f"{OWN}:7860", "mac.local", "MAC.local:7860", own_names()[0]])
def test_on_the_network_it_is_answered_under_the_names_it_has_there(host: str) -> None:
    exposed, hidden = gated(Access(Hosts(True))), gated(Access(Hosts(False)))
    assert ask(exposed, headers={"host": host}, client=LAN, reached=OWN).status == 200
    assert ask(hidden, headers={"host": host}, client=LAN, reached=OWN).status == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "mac.local.evil.example",
        "local",
        "192.168.1.3",
        "192.168.1.2.evil.example",
        "",
        "[::1",
        "0.0.0.0",
    ],
)
def test_on_the_network_too_another_name_gets_nothing(host: str) -> None:
    answer = ask(gated(Access(Hosts(True))), headers={"host": host}, client=LAN, reached=OWN)
    assert answer.status == 403
    assert answer.error()["code"] == "wrong_host"
    assert "localhost" in answer.error()["message"]


def test_a_name_that_was_configured_is_answered() -> None:
    gate = gated(Access(Hosts(names=("studio.example",))))
    assert ask(gate, headers={"host": "Studio.Example:443"}).status == 200


def test_refusals_name_the_settings_and_not_what_they_hold() -> None:
    gate = gated(Access(Hosts(True, ("studio.example",)), origins=("https://pages.example",)))
    refused = ask(gate, headers={"host": "evil.example"}), ask(gate, "POST", headers={"origin": "https://evil.example"})
    for answer, setting in zip(refused, ("allowed_hosts", "cors_origins"), strict=True):
        assert answer.status == 403
        assert setting in answer.error()["message"]
        for hidden in {"studio.example", "pages.example", *own_names()} - {"localhost"}:
            assert f" {hidden}," not in answer.error()["message"]


@pytest.mark.parametrize("reached", ["::ffff:192.168.1.2", "192.168.1.2"])
def test_an_address_is_the_machines_own_however_the_socket_writes_it(reached: str) -> None:
    assert ask(gated(Access(Hosts(True))), headers={"host": OWN}, reached=reached).status == 200


def test_an_ipv6_address_is_compared_as_an_address() -> None:
    gate = gated(Access(Hosts(True)))
    assert ask(gate, headers={"host": "[fe80:0:0::1]:7860"}, reached="fe80::1%en0").status == 200
    assert ask(gate, headers={"host": "[fe80::2]:7860"}, reached="fe80::1%en0").status == 403


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Localhost:7860", "localhost"),
        ("localhost.", "localhost"),
        ("localhost:", "localhost"),
        ("[::1]:7860", "::1"),
        ("[FE80::1%en0]", "fe80::1%en0"),
        ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
        ("my_mac-2.local", "my_mac-2.local"),
    ],
)
def test_a_host_has_a_name_and_perhaps_a_port(header: str, name: str) -> None:
    assert host_of(header) == name


@pytest.mark.parametrize(
    "header",
    ["", "[::1", "::1", "[::1]evil", "[::1]evil:1", "evil@localhost", "evil:1@localhost", "localhost/evil", "localhost?evil",
     "localhost#evil", "localhost\\evil", "localhost:abc", "localhost:999999", "localhost:1:2", "localhost evil",
     "localhost, evil", "localhost\t", "localhost\n", "localhost%00.evil", "loc\u017falhost", "\xe9vil", "localhost:\u0661"],
)  # fmt: skip
def test_a_malformed_host_has_no_name(header: str) -> None:
    assert host_of(header) == ""


@pytest.mark.parametrize("host", ["localhost..", "127.1", "0x7f.1", "2130706433", "017700000001", "local.host"])
def test_other_ways_to_write_this_machine_are_not_answered(host: str) -> None:
    assert ask(gated(), headers={"host": host}).status == 403
