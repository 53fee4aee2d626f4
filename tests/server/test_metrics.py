from __future__ import annotations

import re

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.live_server import enqueue, over, until


def counted(client: httpx.Client) -> dict[tuple[str, str], float]:
    """Sample name and its labels' values -> its value."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, ",".join(s.labels.values())): s.value for family in families for s in family.samples}


def test_jobs_steps_and_loads_are_counted(client: httpx.Client) -> None:
    before = counted(client)
    over(client, enqueue(client, "counted", steps=4)["id"])
    over(client, enqueue(client, "fail")["id"])
    after = counted(client)
    grown = {key: after[key] - before.get(key, 0.0) for key in after}
    assert grown["anemone_jobs_total", "succeeded"] == 1
    assert grown["anemone_jobs_total", "failed"] == 1
    assert grown["anemone_step_seconds_count", ""] >= 4
    assert after["anemone_model_loads_total", "loaded"] >= 1
    assert after["anemone_queue_jobs", "queued"] == 0


def test_conversions_are_counted_and_what_never_happened_is_zero(client: httpx.Client) -> None:
    before = counted(client)
    assert before["anemone_worker_deaths_total", ""] >= 0
    url = client.post("/api/v1/models", json={"source": "somebody/counted"}).headers["location"]
    until(lambda: client.get(url).json()["status"] == "succeeded")
    # The count follows the status, on the same thread.
    key = ("anemone_conversions_total", "succeeded")
    until(lambda: counted(client)[key] > before[key])
    assert counted(client)[key] == before[key] + 1


def test_nothing_that_was_asked_or_is_called_is_in_the_metrics(client: httpx.Client) -> None:
    job = enqueue(client, "a secret garden")
    over(client, job["id"])
    text = client.get("/metrics").text
    for word in ("secret", "garden", job["id"], "fake", "127.0.0.1"):
        assert word not in text
    labels = set(re.findall(r"(\w+)=\"", text))
    assert labels <= {"state", "status", "outcome", "le"}
