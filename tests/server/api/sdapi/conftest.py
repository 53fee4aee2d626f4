from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from webuiapi import WebUIApi

Post = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def api(client: httpx.Client) -> WebUIApi:
    """The client of AUTOMATIC1111's API, of the server that all tests share."""
    return WebUIApi(host=client.base_url.host, port=client.base_url.port, steps=2)


@pytest.fixture(scope="session")
def post(client: httpx.Client) -> Post:
    """Sends a body to a call and returns the answer, which must be a success."""

    def send(path: str, **body: Any) -> dict[str, Any]:
        answer = client.post(f"/sdapi/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    return send
