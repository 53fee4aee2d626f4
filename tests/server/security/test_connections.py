from __future__ import annotations

import logging
import resource

import pytest

from server.security.connections import ConnectionLimits, Connections, Place, raise_open_files
from tests.support.asgi_client import HERE, LAN

LIMITS = ConnectionLimits(total=10, per_client=5)
UNLIMITED = resource.RLIM_INFINITY


class Clients:
    """Opens places and notes which of them are closed."""

    def __init__(self, limits: ConnectionLimits = LIMITS) -> None:
        self.connections, self.closed = Connections(limits), list[Place]()

    def enter(self, client: str = HERE) -> Place:
        place = self.connections.enter(client)
        place.close = lambda: self.closed.append(place)
        return place


def test_a_newcomer_takes_the_place_of_the_one_that_has_waited_longest() -> None:
    clients = Clients()
    first, second, *_ = [clients.enter() for _ in range(10)]
    assert clients.closed == []
    clients.enter()
    clients.enter()
    assert clients.closed == [first, second]
    assert len(clients.connections) == 10


def test_a_request_makes_its_connection_the_latest_to_wait() -> None:
    clients = Clients()
    first, second, *_ = [clients.enter() for _ in range(10)]
    assert first.start_request()
    first.end_request()
    clients.enter()
    assert clients.closed == [second]


def test_a_busy_connection_is_never_closed_and_a_newcomer_still_gets_in() -> None:
    clients = Clients()
    busy = [place for place in [clients.enter() for _ in range(10)] if place.start_request()]
    assert len(busy) == 8
    for _ in range(30):
        assert not clients.enter().start_request()
    assert not set(busy) & set(clients.closed)
    busy[0].leave()
    assert clients.enter().start_request()


def test_a_client_of_the_network_gets_a_part_of_the_places() -> None:
    clients = Clients()
    here = clients.enter()
    lan = [clients.enter(LAN) for _ in range(6)]
    assert clients.closed == lan[:1]
    assert [place.start_request() for place in lan[1:]] == [True, True, True, False, False]
    assert here.start_request()


def test_the_client_that_has_most_connections_waiting_gives_way() -> None:
    clients = Clients()
    other = clients.enter("192.168.1.30")
    lan = [clients.enter(LAN) for _ in range(4)]
    here = [clients.enter() for _ in range(5)]
    clients.enter("192.168.1.31")
    clients.enter("192.168.1.32")
    assert clients.closed == [here[0], lan[0]]
    assert other not in clients.closed


def test_a_place_that_was_left_is_free_however_often_it_is_left() -> None:
    clients = Clients()
    places = [clients.enter() for _ in range(10)]
    places[0].start_request()
    for place in places * 2:
        place.leave()
    assert len(clients.connections) == 0
    for _ in range(10):
        clients.enter()
    assert clients.closed == []


def test_a_connection_that_gave_way_as_its_request_came_is_counted_no_more_once_it_is_lost() -> None:
    clients = Clients()
    first = clients.enter()
    for _ in range(10):
        clients.enter()
    assert clients.closed == [first]
    first.start_request()
    first.leave()
    assert len(clients.connections) == 10


def test_the_log_names_the_client_and_how_many_it_has(caplog: pytest.LogCaptureFixture) -> None:
    clients = Clients()
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            clients.enter(LAN)
    assert f"{LAN} has 5 connections" in caplog.text


@pytest.mark.parametrize(("open_files", "total"), [(256, 80), (1024, 464), (10_240, 512), (64, 16)])
def test_the_limits_leave_descriptors_for_files_and_everything_else(open_files: int, total: int) -> None:
    limits = ConnectionLimits.within(open_files)
    assert limits.total == total
    assert limits.per_client <= total


@pytest.mark.parametrize(
    ("soft", "hard", "most", "held"),
    [
        (256, UNLIMITED, UNLIMITED, 10_240),  # a Mac
        (256, UNLIMITED, 9000, 5120),  # a Mac whose kern.maxfilesperproc is smaller
        (1024, 4096, UNLIMITED, 4096),
        (1024, 2**20, UNLIMITED, 10_240),
        (256, 256, UNLIMITED, 256),
        (2**20, 2**20, UNLIMITED, 2**20),
        (UNLIMITED, UNLIMITED, UNLIMITED, 10_240),
    ],
)
def test_the_limit_is_raised_as_far_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int, held: int
) -> None:
    limits = [soft, hard]

    def setrlimit(kind: int, wanted: tuple[int, int]) -> None:
        if most != UNLIMITED and wanted[0] > most:
            raise ValueError("not allowed to raise maximum limit")
        limits[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert raise_open_files() == held
    assert limits[0] in (held, UNLIMITED)
