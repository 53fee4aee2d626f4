"""What a client may do to a connection, over a socket."""

from __future__ import annotations

import errno
import gc
import logging
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from h11._receivebuffer import ReceiveBuffer

from server.security.connections import ConnectionLimits, Place
from server.security.protocol import Connection
from server.security.tls import own_certificate
from tests.support.live_server import until
from tests.support.small_server import HEALTH, LARGE, Small, read_all, read_answer, small

BRIEF = ConnectionLimits(
    total=24, per_client=24, handshake_seconds=0.5, head_seconds=0.5, idle_seconds=0.2, stall_seconds=0.3
)
FEW = ConnectionLimits(total=24)


@pytest.fixture(scope="module")
def brief() -> Iterator[Small]:
    with small(BRIEF) as running:
        yield running


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    certificate = own_certificate(tmp_path_factory.mktemp("data"), ("localhost", "127.0.0.1"))
    return {"ssl_certfile": certificate.cert, "ssl_keyfile": certificate.key}


def trusting(tls: dict[str, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=tls["ssl_certfile"])


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_connection_without_a_whole_head_is_closed(brief: Small, sent: bytes) -> None:
    assert brief.ask(sent) == b""


def test_a_head_that_drips_is_given_up_as_a_whole(brief: Small) -> None:
    with brief.connect() as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
        for _ in range(400):
            connection.sendall(b"G")
            time.sleep(0.05)


def test_the_next_request_of_a_connection_has_the_same_time(brief: Small) -> None:
    with brief.connect(HEALTH) as connection:
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /")
        assert read_all(connection) == b""


def test_an_idle_connection_is_closed(brief: Small) -> None:
    with brief.connect(HEALTH) as connection:
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        assert read_all(connection) == b""


def test_a_request_in_progress_is_not_hurried(brief: Small) -> None:
    with brief.connect(b"GET /wait HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as connection:
        time.sleep(1)
        brief.release.set()
        assert read_all(connection).endswith(b"done")
    brief.release.clear()


@pytest.mark.parametrize("kept", [b"close", b"keep-alive"])
def test_a_client_that_does_not_read_its_answer_is_closed(kept: bytes) -> None:
    with small(BRIEF) as running:
        request = b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: " + kept + b"\r\n\r\n"
        with running.connect(request) as connection:
            until(lambda: len(running.server.connections) == 1)
            until(lambda: len(running.server.connections) == 0)
            assert len(read_all(connection)) < LARGE


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_client_that_reads_slowly_gets_all_of_its_answer(is_tls: bool, tls: dict[str, Path]) -> None:
    with small(BRIEF, **(tls if is_tls else {})) as running, ExitStack() as opened:
        connection = opened.enter_context(running.connect())
        if is_tls:
            connection = opened.enter_context(trusting(tls).wrap_socket(connection, server_hostname="localhost"))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        length, started = 0, time.monotonic()
        while part := connection.recv(2**20):
            length, before = length + len(part), length
            if length >> 20 > before >> 20:
                time.sleep(0.01)
        assert length > LARGE
        assert time.monotonic() - started > BRIEF.stall_seconds


def test_one_that_waits_gives_way_and_a_request_in_progress_does_not() -> None:
    with small(FEW) as running, ExitStack() as opened:
        waiting = opened.enter_context(running.connect(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        until(lambda: running.server.connections.busy == 1)
        for sent in (b"", b"GET / HTTP/1.1\r\nX-Drip: "):
            for _ in range(60):
                opened.enter_context(running.connect(sent))
        assert running.is_well()
        assert len(running.server.connections) <= 24
        running.release.set()
        assert read_answer(waiting).startswith(b"HTTP/1.1 200 ")


def test_bodies_on_their_way_give_way_and_those_that_arrive_are_answered() -> None:
    head = b"POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n"
    with small(FEW) as running, ExitStack() as opened:
        begun = [opened.enter_context(running.connect(head + b"half")) for _ in range(60)]
        assert running.is_well()
        until(lambda: running.server.connections.busy == 0)
        begun[-1].sendall(b"rest")
        assert read_answer(begun[-1]).endswith(b"8")


def test_a_body_may_take_longer_than_a_head() -> None:
    with small(replace(FEW, head_seconds=0.2)) as running, running.connect() as connection:
        connection.sendall(b"POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n")
        for _ in range(2):
            time.sleep(0.3)
            connection.sendall(b"half")
        assert read_answer(connection).endswith(b"8")


def test_when_all_are_busy_a_newcomer_is_told_when_to_come_again() -> None:
    with small(FEW) as running, ExitStack() as opened:
        for _ in range(21):
            opened.enter_context(running.connect(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        until(lambda: running.server.connections.busy == 21)
        head, _, body = running.ask(HEALTH).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5" in head.lower()
        assert b'"crowded"' in body
        running.release.set()
        until(running.is_well)


def test_a_handshake_that_is_not_completed_gives_way_and_is_given_up(tls: dict[str, Path]) -> None:
    with small(BRIEF, **tls) as running, ExitStack() as opened:
        begun = [opened.enter_context(running.connect(b"\x16\x03\x01")) for _ in range(60)]
        with trusting(tls).wrap_socket(running.connect(), server_hostname="localhost") as connection:
            connection.sendall(HEALTH)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        assert [read_all(connection) for connection in begun] == [b""] * 60
        until(lambda: len(running.server.connections) == 0)


@pytest.mark.parametrize("sent", [HEALTH, b"\x16\x03\x01\x02\x00\x01", b"\x00" * 500, b""])
def test_what_is_no_handshake_is_closed_without_a_line_in_the_log(
    sent: bytes, tls: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with small(BRIEF, **tls) as running:
        assert b"HTTP" not in running.ask(sent)
        until(lambda: len(running.server.connections) == 0)
    assert caplog.records == []


def test_a_server_without_descriptors_waits_and_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept, failed = socket.socket.accept, list[OSError]()

    def exhausted(self: socket.socket) -> tuple[socket.socket, object]:
        if len(failed) < 2:
            failed.append(OSError(errno.EMFILE, "Too many open files"))
            raise failed[-1]
        return accept(self)

    with small(FEW) as running, running.connect():
        until(lambda: len(running.server.connections) == 1)
        monkeypatch.setattr(socket.socket, "accept", exhausted)
        started = time.monotonic()
        assert running.is_well()
        assert time.monotonic() - started > 0.9
    messages = [record.getMessage() for record in caplog.records]
    assert sum("no connection can be accepted: Too many open files" in message for message in messages) == 2


def test_a_connection_that_cannot_be_served_leaves_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Connection, place: Place, limits: ConnectionLimits, **of_uvicorn: object) -> None:
        raise MemoryError

    with small(FEW) as running:
        with monkeypatch.context() as patched:
            patched.setattr(Connection, "__init__", broken)
            assert running.ask(b"") == b""
        until(lambda: len(running.server.connections) == 0)
        assert running.is_well()
        gc.collect()  # asyncio logs what no task asked for
    assert "MemoryError" in caplog.text


HOST = b"Host: localhost\r\n"
HEADS = {
    "an enormous header": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 10**6 + b"\r\n\r\n",
    "an endless head": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 10**5,
    "an enormous target": b"GET /" + b"a" * 10**6 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\n" + HOST + b" folded\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n",
    "another host": b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "a length that is no number": b"POST /length HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n\r\n",
    "a negative length": b"POST /length HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "two lengths": b"POST /length HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "an enormous length": b"POST /length HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "an unknown coding": b"POST /length HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "a chunk that is none": b"POST /length HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk that is none, unread": b"POST /healthz HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "a header without a name": b"GET /healthz HTTP/1.1\r\n" + HOST + b": x\r\n\r\n",
    "a header with NUL": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: \0\r\n\r\n",
    "a target with NUL": b"GET /a\0b HTTP/1.1\r\n" + HOST + b"\r\n",
    "an encoded NUL": b"GET /page.css%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes that are no UTF-8": b"GET /%ff%fe%c0%80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target of another server": b"GET http://evil.example/healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
    "lines without text": b"\r\n" * 10**5,
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_a_wrong_head_is_refused_or_closed(head: bytes, brief: Small, caplog: pytest.LogCaptureFixture) -> None:
    with brief.connect() as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # closed while it is still being sent
            connection.sendall(head)
        answer = read_all(connection)
    assert set(re.findall(rb"HTTP/1.1 (\d)", answer)) <= {b"4"}, answer[:300]
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert brief.is_well()


@pytest.mark.parametrize("length", [b"60", b"0", b"5"])
def test_nothing_can_be_smuggled_behind_a_request_with_two_lengths(brief: Small, length: bytes) -> None:
    lengths = b"Content-Length: " + length + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    answer = brief.ask(b"POST /length HTTP/1.1\r\n" + HOST + lengths + HEALTH)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_requests_in_one_piece_are_answered_in_turn(brief: Small) -> None:
    answers = brief.ask(HEALTH * 50)
    assert answers.count(b"HTTP/1.1 200 OK") == 50


def test_what_follows_a_request_and_is_none_gets_no_second_answer_of_the_first(brief: Small) -> None:
    assert brief.ask(HEALTH + b"\0\0\r\n\r\n").count(b"HTTP/1.1 200 OK") == 1


def test_http_1_0_is_answered_and_closed(brief: Small) -> None:
    assert brief.ask(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_wish_for_another_protocol_is_ignored(brief: Small, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
    assert brief.ask(b"GET /healthz HTTP/1.1\r\n" + HOST + upgrade).startswith(b"HTTP/1.1 200 ")
    assert caplog.records == []


def chunked(part: bytes, count: int) -> bytes:
    """A request whose body has so many chunks."""
    head = b"POST /length HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + (b"%x\r\n%s\r\n" % (len(part), part)) * count + b"0\r\n\r\n"


def test_a_body_of_many_tiny_chunks_is_refused(brief: Small) -> None:
    assert brief.ask(chunked(b"x", 20_000)).startswith(b"HTTP/1.1 400 ")
    assert brief.is_well()


@pytest.mark.parametrize(("size", "count"), [(1, 500), (64, 3000)])
def test_a_body_of_a_few_tiny_or_of_many_larger_chunks_is_read(brief: Small, size: int, count: int) -> None:
    assert brief.ask(chunked(b"x" * size, count)).endswith(str(size * count).encode())


LONG_HEADS = {
    "many lines": b"a:\r\n" * 15_000,
    "many lines that end like Unix's": b"a:\n" * 15_000,
    "more than a hundred lines": b"a: b\r\n" * 101,
    "a long line": b"a: " + b"b" * 60_000 + b"\r\n",
}


@pytest.mark.parametrize("lines", LONG_HEADS.values(), ids=LONG_HEADS.keys())
def test_a_long_head_is_refused_before_it_is_parsed(
    lines: bytes, brief: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    split = ReceiveBuffer.maybe_extract_lines

    def counted(buffer: ReceiveBuffer) -> list[bytearray] | None:
        found = split(buffer)
        parsed.append(len(found or ()))
        return found

    monkeypatch.setattr(ReceiveBuffer, "maybe_extract_lines", counted)
    answer = brief.ask(b"GET /healthz HTTP/1.1\r\n" + HOST + lines + b"\r\n")
    # A client that is still sending may get a reset connection in place of the answer.
    assert answer == b"" or (answer.startswith(b"HTTP/1.1 400 ") and answer.endswith(b"16384 bytes and 100 lines"))
    assert max(parsed, default=0) <= 100
    assert brief.is_well()


def test_a_head_as_browsers_send_it_is_read(brief: Small) -> None:
    cookies = b"Cookie: " + b"; ".join(b"name%d=" % n + b"x" * 200 for n in range(50)) + b"\r\n"
    head = b"GET /healthz HTTP/1.1\r\n" + HOST + cookies + b"Accept: */*\r\n" * 40 + b"\r\n"
    assert brief.ask(head).startswith(b"HTTP/1.1 200 ")


def test_requests_in_one_piece_may_have_more_lines_together(brief: Small) -> None:
    one = HEALTH.replace(b"\r\n\r\n", b"\r\n" + b"a: b\r\n" * 30 + b"\r\n")
    assert brief.ask(one * 50).count(b"HTTP/1.1 200 OK") == 50


def test_many_lines_after_a_body_of_chunks_are_refused(brief: Small) -> None:
    body = chunked(b"x", 1).removesuffix(b"\r\n")
    assert brief.ask(body + b"a: b\r\n\r\n").endswith(b"\r\n1")
    assert b"HTTP/1.1 200 " not in brief.ask(body + b"a: b\r\n" * 5_000 + b"\r\n")
    assert brief.is_well()
