"""The endpoints of the Hugging Face hub that downloads use, on 127.0.0.1, with typical network faults.

As on the hub, a large file (.safetensors) is a redirect to another host, whose addresses need no token.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_somebody_allowed"


@dataclass
class Repository:
    """Files by path, their commit, and whether reading them needs a token."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    gated: bool = False


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # tests disconnect clients
            super().handle_error(request, client_address)


@dataclass
class FakeHub:
    """A running hub.

    faults: path of a large file -> early ends of its next answers, as (bytes sent, "close" or "reset").
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    corrupt: bool = False

    def __post_init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def got(self, path: str) -> list[Request]:
        """Return the requests for a large file's bytes."""
        return [r for r in self.requests if r.method == "GET" and r.path == f"/cdn/{path}"]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._info(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups())
        elif path.startswith("/cdn/"):
            self._large(path.removeprefix("/cdn/"))
        else:
            self._send(404, b"")

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refused(self, name: str, revision: str) -> bool:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not repository"})
        elif revision not in ("main", repository.commit):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
        else:
            return False
        return True

    def _info(self, name: str, revision: str) -> None:
        if self._refused(name, revision):
            return
        repository, siblings = self.hub.repositories[name], []
        for path, content in repository.files.items():
            entry = {"rfilename": path, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            if path.endswith(".safetensors"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        body = json.dumps(
            {"id": name, "sha": repository.commit, "siblings": siblings, "gated": repository.gated}
        ).encode()
        self._send(200, body, {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        if self._refused(name, revision):
            return
        repository = self.hub.repositories[name]
        if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            return
        content = repository.files[path]
        headers = {"X-Repo-Commit": repository.commit}
        if not path.endswith(".safetensors"):
            self._send(200, content, headers | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
            return
        headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        headers["X-Linked-Size"] = str(len(content))
        headers["Location"] = f"http://localhost:{self.hub.port}/cdn/{name}/{path}"
        self._send(302, b"", headers)

    def _large(self, path: str) -> None:
        owner, name, file = path.split("/", 2)
        content = self.hub.repositories[f"{owner}/{name}"].files[file]
        if self.hub.corrupt:
            content = bytes(len(content))
        begin, total = 0, len(content)
        if byte_range := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = int(byte_range[1])
        self.send_response(206 if byte_range else 200)
        self.send_header("Content-Length", str(total - begin))
        if byte_range:
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        self.end_headers()
        faults = self.hub.faults.get(path)
        if not faults:
            self.wfile.write(content[begin:])
            return
        size, ending = faults.pop(0)
        self.wfile.write(content[begin : begin + size])
        self.wfile.flush()
        self.close_connection = True
        if ending == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for opened in (self.wfile, self.rfile, self.connection):
                opened.close()
            raise ConnectionResetError
