from __future__ import annotations

import socket

import httpx
import pytest

from tests.support.small_server import read_all

TARGETS = {
    "NUL": "/%00",
    "a model with NUL": "/api/v1/models/a%00b",
    "a command with NUL": "/api/v1/models/a%00b/load",
    "a model above the folder": "/api/v1/models/%2e%2e%2f%2e%2e",
    "a model that is no UTF-8": "/api/v1/models/%ed%a0%80",
    "a model as long as a head": "/api/v1/models/" + "a" * 9000,
    "a job with NUL": "/api/v1/jobs/%00",
    "the events of a job with NUL": "/api/v1/jobs/%00/events",
    "the events of a conversion with NUL": "/api/v1/models/conversions/%00/events",
    "the image of a job that is no UTF-8": "/api/v1/jobs/%ff/images/0",
    "an image with NUL": "/api/v1/jobs/x/images/%00",
    "a query with NUL": "/api/v1/jobs?status=%00&model=%ff%00&before=%00",
    "a query of 2,000 values": "/api/v1/jobs?" + "limit=1&" * 2000,
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_a_wrong_target_is_refused_by_every_method(
    client: httpx.Client, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    base = client.base_url
    for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
        with socket.create_connection((base.host, base.port), timeout=20) as connection:
            head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(head.encode())
            assert read_all(connection).startswith(b"HTTP/1.1 4"), method
    assert caplog.records == []
