from __future__ import annotations

import pytest
from starlette.types import Scope

from server.security.gate import Access
from server.security.rate import Buckets, client_of
from tests.support.asgi_client import HERE, LAN, ask, gated


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_a_minutes_worth_and_fills_again_over_a_minute() -> None:
    clock = Clock()
    buckets = Buckets(4, clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0]
    assert buckets.take("a") == 15
    clock.now = 10
    assert buckets.take("a") == pytest.approx(5)
    clock.now = 15
    assert buckets.take("a") == 0
    clock.now = 1000
    assert [buckets.take("a") for _ in range(5)] == [0, 0, 0, 0, 15]


def test_clients_have_buckets_of_their_own() -> None:
    buckets = Buckets(1, Clock())
    assert buckets.take("a") == 0
    assert buckets.take("b") == 0
    assert buckets.take("a") > 0


def test_however_many_clients_come_only_the_latest_are_remembered() -> None:
    buckets = Buckets(1, Clock())
    for client in range(10_001):
        buckets.take(str(client))
    assert len(buckets._buckets) == 10_000
    assert buckets.take("10000") > 0
    assert buckets.take("0") == 0


def test_a_token_that_is_given_back_leaves_no_trace() -> None:
    buckets = Buckets(2, Clock())
    for client in ("a", "b"):
        buckets.take(client)
    buckets.take("b")
    buckets.give_back("a")
    buckets.give_back("b")
    assert list(buckets._buckets) == ["b"]
    assert [buckets.take("b"), buckets.take("b")] == [0, 30]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.2", "10.0.0.2"),
        ("::ffff:10.0.0.2", "10.0.0.2"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("2001:db8::ffff", "2001:db8::/64"),
        ("fe80::1%en0", "fe80::/64"),
        ("::1", "127.0.0.1"),
        ("127.1.2.3", "127.0.0.1"),
        ("::ffff:127.0.0.9", "127.0.0.1"),
    ],
)
def test_a_client_is_its_address_or_its_ipv6_network_and_this_machine_one_client(address: str, client: str) -> None:
    scope: Scope = {"client": (address, 1)}
    assert client_of(scope) == client


def test_a_client_past_its_rate_is_told_when_to_come_back() -> None:
    gate = gated(Access(rate=3))
    assert [ask(gate, client=LAN).status for _ in range(3)] == [200] * 3
    answer = ask(gate, client=LAN)
    assert (answer.status, answer.error()["code"]) == (429, "too_many_requests")
    assert "3 a minute" in answer.error()["message"]
    assert 1 <= int(answer.header("retry-after") or 0) <= 20
    assert ask(gate, client="192.168.1.21").status == 200


def test_this_machines_own_programs_ask_as_often_as_they_like() -> None:
    gate = gated(Access(rate=1))
    assert {
        ask(gate, client=address).status
        for address in (HERE, HERE, "::1", "::1", "::ffff:127.0.0.1", "::ffff:127.0.0.1")
    } == {200}
