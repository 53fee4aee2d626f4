from __future__ import annotations

import httpx
import pytest
from webuiapi import WebUIApi


@pytest.fixture(scope="session")
def api(client: httpx.Client) -> WebUIApi:
    """The client of AUTOMATIC1111's API, of the server that all tests share."""
    return WebUIApi(host=client.base_url.host, port=client.base_url.port, steps=2)
