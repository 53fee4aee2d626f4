"""A client on the network that wants more of the queue than others, over HTTP."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from server.jobs.ledger import Limits
from tests.support.asgi_client import LAN
from tests.support.live_server import server


def test_a_client_on_the_network_gets_its_share_of_the_queue_and_no_high_priority(tmp_path: Path) -> None:
    app = server(tmp_path, limits=Limits(max_queue=4, in_shares=True)).config.app
    job = {"headers": {"Prefer": "respond-async"}}
    with TestClient(app, "http://localhost", client=(LAN, 50000)) as client:
        answer = client.post("/api/v1/txt2img", json={"prompt": "a", "priority": "high"}, **job)
        assert answer.status_code == 403
        assert answer.json()["error"]["accepted"] == "normal, low"
        # The fake pipeline takes long over a slow one; the others wait.
        client.post("/api/v1/txt2img", json={"prompt": "slow", "steps": 100}, **job)
        answers = [client.post("/api/v1/txt2img", json={"prompt": "a", "steps": 100}, **job) for _ in range(5)]
        refused = answers[-1]
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_share_full"
        assert int(refused.headers["retry-after"]) >= 1
