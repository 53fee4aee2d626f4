from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from server.supervisor import ChildProcess, Supervisor, spawn


def echo(pipe: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send("ready")
    while (message := pipe.recv()) != "leave":
        if message == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        pipe.send(message)


@pytest.fixture
def children() -> Iterator[list[ChildProcess]]:
    """Yield two processes that are ready."""
    started = [ChildProcess(spawn(echo, name=f"echo {i}")) for i in range(2)]
    assert [child.transport.receive() for child in started] == ["ready", "ready"]
    yield started
    for child in started:
        child.stop(0)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.close()


def test_messages_and_deaths_are_those_of_their_child(supervisor: Supervisor, children: list[ChildProcess]) -> None:
    first, second = children
    second.transport.send("hello")
    assert supervisor.wait(children) == [(second, "hello")]
    first.transport.send("die")
    assert supervisor.wait(children) == [(first, None)]
    assert first.stop(30) == -signal.SIGKILL
    first.transport.send("dropped")
    second.transport.send("still here")
    assert supervisor.wait([second]) == [(second, "still here")]


def test_a_wait_ends_when_it_is_woken_or_its_time_is_over(supervisor: Supervisor, children: list[ChildProcess]) -> None:
    supervisor.wake()
    assert supervisor.wait(children) == []
    began = time.monotonic()
    assert supervisor.wait(children, 0.1) == []
    assert time.monotonic() - began >= 0.1


def test_one_that_leaves_in_time_is_not_killed_and_one_that_does_not_is(children: list[ChildProcess]) -> None:
    first, second = children
    first.transport.send("leave")
    assert first.stop(30) == 0
    second.terminate()
    assert second.stop(0.1) == -signal.SIGKILL
