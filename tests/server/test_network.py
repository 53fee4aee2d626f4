"""A server for the network, as its owner starts it."""

from __future__ import annotations

import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from server.jobs.store import JobStore
from server.security.hosts import own_addresses
from server.security.key import COOKIE, FILE
from tests.support import fake_pipeline
from tests.support.live_server import PATIENCE, answers, until

pytestmark = pytest.mark.slow


@contextmanager
def started(
    data_dir: Path, *flags: str, before: Callable[[], None] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """A server whose model cannot be loaded, its port, and what it says; its process calls ``before`` first."""
    model = fake_pipeline.write_model(data_dir.parent / "none")
    said = data_dir.parent / "said"
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(data_dir), "--no-advertise"]
    with said.open("wb") as out:
        command += ["--model", str(model), *flags]
        process = subprocess.Popen(command, stdout=out, stderr=out, preexec_fn=before)
    try:
        actual = until(lambda: process.poll() is not None or re.search(r"http\S+:(\d+)", said.read_text()))
        assert process.poll() is None, said.read_text()
        yield process, actual[1], said
    finally:
        process.kill()
        process.wait()


def test_it_makes_a_key_shows_it_once_and_lets_nobody_in_without(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with started(data, "--host", "0.0.0.0") as (process, port, said):
        address = (*own_addresses(), "127.0.0.1")[0]
        with httpx.Client(base_url=f"http://{address}:{port}", trust_env=False, timeout=PATIENCE) as client:
            until(lambda: answers(client))
            assert client.get("/api/v1/jobs").status_code == 401
            shown = re.search(r"API key: (\S+)", said.read_text())
            assert shown is not None
            key = shown[1]
            assert client.get("/api/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200
            rebound = {"Authorization": f"Bearer {key}", "Host": "evil.example"}
            assert client.get("/api/v1/jobs", headers=rebound).status_code == 403
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
        assert "Traceback" not in said.read_text()
    with started(data, "--host", "0.0.0.0") as (_, port, said):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE) as client:
            until(lambda: answers(client))
            assert client.get("/api/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert key not in said.read_text()
        assert str(data / FILE) in said.read_text()


def test_what_it_keeps_is_for_its_owner_only_also_what_an_earlier_version_left(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    JobStore(data).close()
    (data / "images").chmod(0o755)
    (data / "jobs.sqlite3").chmod(0o644)
    with started(data, "--host", "0.0.0.0", "--tls") as (_, port, said):
        context = ssl.create_default_context(cafile=data / "tls" / "cert.pem")
        with httpx.Client(base_url=f"https://localhost:{port}", verify=context, trust_env=False) as client:
            until(lambda: answers(client))
        kept = [data, *data.rglob("*")]
        assert {path.name for path in kept} >= {"jobs.sqlite3", "jobs.sqlite3-wal", FILE, "key.pem", "images"}
        assert not [path for path in kept if path.stat().st_mode & 0o077]
        assert "rights" not in said.read_text()


def test_a_login_is_secure_over_tls_outlives_a_restart_and_ends_at_its_logout(tmp_path: Path) -> None:
    data, cookies = tmp_path / "data", httpx.Cookies()
    statuses = []
    for step in ("log in", "log out", "look"):
        with started(data, "--host", "0.0.0.0", "--tls") as (_, port, _):
            context = ssl.create_default_context(cafile=data / "tls" / "cert.pem")
            base = f"https://localhost:{port}"
            with httpx.Client(base_url=base, verify=context, trust_env=False, cookies=cookies) as client:
                until(lambda: answers(client))
                if step == "log in":
                    answer = client.post("/api/v1/session", json={"key": (data / FILE).read_text().strip()})
                    assert "Secure" in answer.headers["set-cookie"]
                    cookies.set(COOKIE, answer.cookies[COOKIE])
                statuses.append(client.get("/api/v1/jobs").status_code)
                if step == "log out":
                    assert client.delete("/api/v1/session").status_code == 204
    assert statuses == [200, 200, 401]


def test_with_tls_it_makes_a_certificate_and_shows_its_fingerprint(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with started(data, "--tls") as (_, port, said):
        context = ssl.create_default_context(cafile=data / "tls" / "cert.pem")
        with httpx.Client(
            base_url=f"https://localhost:{port}", verify=context, trust_env=False, timeout=PATIENCE
        ) as client:
            until(lambda: answers(client))
        assert re.search(r"fingerprint ([0-9A-F]{2}:){31}[0-9A-F]{2}", said.read_text())


def test_a_key_that_is_given_is_asked_for_on_this_machine_too_and_never_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "given-by-its-owner-0123"
    monkeypatch.setenv("ANEMONE_API_KEY", key)
    data = tmp_path / "data"
    with started(data, "--log-format", "json") as (process, port, said):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE) as client:
            until(lambda: answers(client))
            right, wrong = {"Authorization": f"Bearer {key}"}, {"Authorization": f"Bearer {key}x"}
            told = [
                client.get("/api/v1/jobs"),
                client.get("/api/v1/jobs", headers=wrong),
                client.post("/api/v1/session", json={"key": key}),
                client.post("/api/v1/session", json={"key": key, "more": key}, headers=right),
                client.post("/api/v1/txt2img", json={"prompt": ""}, headers=right),
                client.post("/api/v1/txt2img", content=b"{", headers=right),
                *(client.get(path, headers=right) for path in ("/metrics", "/readyz", "/api/v1/capabilities")),
                *(client.get(path, headers=right) for path in ("/api/v1/models", "/openapi.json", "/nothing")),
            ]
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert {answer.status_code for answer in told} >= {200, 204, 401, 404, 415, 422}
        assert not [answer.url for answer in told if key in f"{answer.headers} {answer.text}"]
        assert key not in said.read_text()
        assert not [file for file in data.rglob("*") if file.is_file() and key.encode() in file.read_bytes()]


def test_no_number_of_connections_locks_anybody_out_or_fills_the_log(tmp_path: Path) -> None:
    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    with started(tmp_path / "data", before=few_files) as (_, port, said), ExitStack() as opened:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE) as client:
            until(lambda: answers(client))
        for count in range(1000):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", int(port)), timeout=PATIENCE))
            connection.sendall(b"GET / HTTP/1.1\r\nX: " if count % 5 == 0 else b"")
            if count % 100 == 99:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE) as client:
                    assert client.get("/healthz").status_code == 200
        log = said.read_text()
        assert len(re.findall("127.0.0.1 has 80 connections", log)) == 1
        assert "Traceback" not in log
        assert len(log.splitlines()) < 20
