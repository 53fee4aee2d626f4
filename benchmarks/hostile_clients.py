"""Clients that wear a server out, each meant to run in a process of its own: idle, dripping, and sending junk."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import selectors
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass

#: Sizes of junk bodies: large ones, and such as the routes accept to parse.
JUNK_BYTES = (10 * 10**6, 250 * 10**3)
_ANSWER_S = 60.0
#: Uploads are decoded one after another.
_UPLOAD_ANSWER_S = 300.0
_HEAD = b"POST /api/v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
_BOUNDARY = "junk"


@dataclass
class Client:
    """A connection that sends a byte of ``sends`` every second and is opened again when the server closes it."""

    sends: bytes
    sent: int = 0


def _connected(port: int, first: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S)
    connection.sendall(first)
    connection.setblocking(False)
    return connection


def lingering(port: int, idle: int, dripping: int, until: float) -> Counter[str]:
    """Keep idle and dripping connections open, and count those that the server closed.

    Half of the idle ones have had an answer; of the dripping ones half send a head, half a body, a byte a second.
    """
    os.nice(10)
    counts: Counter[str] = Counter()
    greetings = (b"", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    drips = ((b"", _HEAD), (_HEAD + b"Content-Length: 5000\r\n\r\n", b'{"prompt": "' + b"a" * 4000))
    kinds = [(greetings[i % 2], b"") for i in range(idle)] + [drips[i % 2] for i in range(dripping)]
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:

        def open_one(first: bytes, sends: bytes) -> None:
            try:
                connection = stack.enter_context(_connected(port, first))
            except OSError:
                counts["refused"] += 1
                return
            selector.register(connection, selectors.EVENT_READ, (first, Client(sends)))

        def close(connection: socket.socket, first: bytes, sends: bytes) -> None:
            counts["dripping, closed" if sends else "idle, closed"] += 1
            selector.unregister(connection)
            connection.close()
            open_one(first, sends)

        for first, sends in kinds:
            open_one(first, sends)
        next_drip = time.monotonic()
        while time.monotonic() < until:
            for key, _ in selector.select(timeout=max(0.0, min(next_drip, until) - time.monotonic())):
                assert isinstance(key.fileobj, socket.socket)
                first, client = key.data
                try:
                    gone = not key.fileobj.recv(65536)
                except OSError:
                    gone = True
                if gone:
                    close(key.fileobj, first, client.sends)
            if time.monotonic() < next_drip:
                continue
            next_drip += 1.0
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                first, client = key.data
                if client.sent < len(client.sends):
                    try:
                        key.fileobj.send(client.sends[client.sent : client.sent + 1])
                        client.sent += 1
                    except OSError:
                        close(key.fileobj, first, client.sends)
    return counts


def _form(parts: bytes) -> tuple[str, bytes]:
    return f"multipart/form-data; boundary={_BOUNDARY}", parts + f"--{_BOUNDARY}--\r\n".encode()


def junk_bodies(size: int) -> list[tuple[str, str, str, bytes]]:
    """Return what is sent, the path, the content type and the body, of about ``size`` bytes, of every junk request."""
    members = b"{" + b",".join(b'"%07d":0' % i for i in range(size // 12)) + b"}"
    zeros = b"[" + b"0," * (size // 2) + b"0]"
    in_field = b'{"prompt":' + zeros + b"}"
    deep = b"[" * size
    text = b'{"prompt":"' + b"a" * size + b'"}'
    part = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n'.encode()
    one_file = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'.encode()
    fields = _form(part * (size // len(part)))
    file = _form(one_file + bytes(size) + b"\r\n")
    as_json = "application/json"
    bodies = []
    for route in ("session", "txt2img", "img2img", "models"):
        path = f"/api/v1/{route}"
        bodies += [
            ("an object with a million members", path, as_json, members),
            ("a list", path, as_json, zeros),
            ("a list as prompt", path, as_json, in_field),
            ("nested lists", path, as_json, deep),
            ("a text", path, as_json, text),
            ("a form of many fields", path, *fields),
            ("a form with a file of zeros", path, *file),
        ]
    return bodies


def _post(port: int, path: str, content_type: str, body: bytes, patience: float = _ANSWER_S) -> str:
    """Send one request on a connection of its own; return the answer's status, or what happened instead."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
            # An early answer: the server may close the connection before it has read everything.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(head.encode() + b"Connection: close\r\n\r\n")
                connection.sendall(body)
            status = connection.recv(65536)
            return status[9:12].decode() if status else "closed without an answer"
    except TimeoutError:
        return f"no answer in {patience:.0f} s"
    except OSError as error:
        return type(error).__name__


def sending_junk(port: int, first: int, until: float) -> Counter[str]:
    """Send junk bodies one after another, large and small ones in turn, from number ``first`` on, and count the answers."""
    os.nice(10)
    bodies = [body for pair in zip(*map(junk_bodies, JUNK_BYTES), strict=True) for body in pair]
    counts: Counter[str] = Counter()
    for _, path, content_type, body in itertools.islice(itertools.cycle(bodies), first, None):
        if time.monotonic() >= until:
            return counts
        counts[_post(port, path, content_type, body)] += 1
    raise AssertionError("a cycle has no end")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def large_png(width: int = 8000, height: int = 4000) -> bytes:
    """Return an RGBA PNG at the limit of pixels, 128 MB once decoded, in about 130 KB."""
    compressor, line = zlib.compressobj(9), bytes(1 + 4 * width)
    data = b"".join(compressor.compress(line) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def uploading(port: int, uploads: int) -> Counter[str]:
    """Send so many large images at once; count the answers."""
    os.nice(10)
    body = io.BytesIO()
    fields = {"prompt": "a circle", "steps": "2", "strength": "0.9"}
    for name, value in fields.items():
        body.write(f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    body.write(f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'.encode())
    body.write(large_png() + b"\r\n")
    content_type, form = _form(body.getvalue())
    counts: Counter[str] = Counter()

    def upload() -> None:
        counts[_post(port, "/api/v1/img2img", content_type, form, _UPLOAD_ANSWER_S)] += 1

    threads = [threading.Thread(target=upload) for _ in range(uploads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def _ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, float]:
    """Return the answer's status, 0 if there is none, and the seconds from the connection to the end of the answer."""
    began, answer = time.perf_counter(), b""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while part := connection.recv(65536):
                answer += part
    except OSError:
        return 0, time.perf_counter() - began
    return int(answer[9:12] or 0), time.perf_counter() - began


def probing(port: int, until: float, every: float = 0.05) -> list[tuple[int, float]]:
    """Ask /healthz every so many seconds, whether or not earlier ones were answered; return status and seconds of each."""
    asked: list[tuple[int, float]] = []
    threads = []
    while time.monotonic() < until:
        threads.append(threading.Thread(target=lambda: asked.append(_ask(port, "GET", "/healthz"))))
        threads[-1].start()
        time.sleep(every)
    for thread in threads:
        thread.join()
    return asked


def making_images(port: int, until: float) -> list[tuple[int, float]]:
    """Make images, one after another; return status and seconds of each."""
    made = []
    for seed in itertools.count():
        if time.monotonic() >= until:
            break
        body = json.dumps({"prompt": "a circle", "seed": seed}).encode()
        made.append(_ask(port, "POST", "/api/v1/txt2img", body))
        time.sleep(0.1)
    return made
