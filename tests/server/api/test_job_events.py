from __future__ import annotations

import asyncio
import base64
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from server.api import sse
from server.api.health import HealthOut
from server.events import EventLog
from tests.support.live_server import enqueue, live, over, running, until, watch


@pytest.mark.slow
def test_a_job_is_watched_from_its_place_in_the_queue_to_its_end(client: httpx.Client) -> None:
    before, made = enqueue(client, "slow", steps=6), enqueue(client, "slow", steps=8, n=2)
    told = list(watch(client, made["id"]))
    assert told[0].kind == "state"
    assert told[0].data["status"] == "queued"
    states = [t.data["status"] for t in told if t.kind == "state"]
    assert states[0] == "queued"
    assert states[-1] == "succeeded"
    assert told[-1].data == client.get(f"/api/v1/jobs/{made['id']}").json()
    assert [t.id for t in told] == sorted({t.id for t in told})
    steps = [(t.data["image"], t.data["step"], t.data["steps"]) for t in told if t.kind == "progress"]
    assert steps == [(image, step, 8) for image in range(2) for step in range(1, 9)]
    assert over(client, before["id"])["status"] == "succeeded"


@pytest.mark.slow
def test_progress_has_estimates_and_previews(client: httpx.Client) -> None:
    over(client, enqueue(client, "slow", steps=1)["id"])
    told = list(watch(client, enqueue(client, "slow", steps=12)["id"]))
    progress = [t.data for t in told if t.kind == "progress"]
    assert progress[-1]["fraction"] == 1.0
    assert all(0 <= p["eta"] < 60 for p in progress)
    seen = [base64.b64decode(p["preview"]) for p in progress if p["preview"]]
    assert seen
    assert all(jpeg.startswith(b"\xff\xd8") for jpeg in seen)


@pytest.mark.slow
def test_a_reader_that_was_cut_off_goes_on_where_it_was(client: httpx.Client) -> None:
    made = enqueue(client, "slow", steps=12)
    seen = []
    with closing(watch(client, made["id"])) as first:
        for told in first:
            seen.append(told)
            if told.kind == "progress":
                break
    until(lambda: running(client, made["id"])["progress"]["step"] >= 4)
    rest = list(watch(client, made["id"], seen[-1].id))
    steps = [t.data["step"] for t in [*seen, *rest] if t.kind == "progress"]
    assert steps == list(range(1, 13))
    assert rest[0].kind == "progress"
    assert rest[-1].data["status"] == "succeeded"


def test_a_reader_that_comes_back_as_the_job_ends_is_told_its_last_state() -> None:
    async def told() -> list[str | None]:
        log = EventLog()
        resumed = log.subscribe("job", log.subscribe("job").start)
        assert resumed.is_complete
        log.publish("job", "state", {"status": "succeeded"}, last=True)
        now = sse.Snapshot(HealthOut(status="succeeded"), is_open=False)
        return [event.raw_data async for event in sse._stream(sse._Watch(resumed, now), lambda: now)]

    assert asyncio.run(told()) == ['{"status":"succeeded"}']


@pytest.mark.parametrize("after", [None, 0, 2**62])
def test_a_job_that_is_over_is_told_at_once(client: httpx.Client, after: int | None) -> None:
    made = over(client, enqueue(client, "fail")["id"])
    (told,) = watch(client, made["id"], after)
    assert (told.kind, told.data) == ("state", made)


@pytest.mark.slow
def test_a_waiting_job_hears_of_its_place(client: httpx.Client) -> None:
    made = [enqueue(client, "slow", steps=3) for _ in range(4)]
    told = [t.data for t in watch(client, made[3]["id"]) if t.kind == "state"]
    places = [t["position"] for t in told if t["status"] == "queued"]
    assert places[0] >= 2
    assert {0, 1} & set(places)
    assert places == sorted(places, reverse=True)


def test_cancelling_ends_the_stream(client: httpx.Client) -> None:
    made = enqueue(client, "slow", steps=150)
    told = watch(client, made["id"])
    assert next(told).kind == "state"
    running(client, made["id"])
    client.delete(f"/api/v1/jobs/{made['id']}")
    assert list(told)[-1].data["status"] == "cancelled"


@pytest.mark.slow
def test_after_a_restart_a_job_can_be_watched_on(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        done, made = over(client, enqueue(client, "a circle")["id"]), enqueue(client, "slow", steps=15)
        last = [t.id for t, _ in zip(watch(client, made["id"]), range(4), strict=False)][-1]
    with live(tmp_path) as client:
        told = list(watch(client, made["id"], last))
        assert told[0].kind == "state"
        assert told[-1].data["status"] == "succeeded"
        assert min(t.id for t in told) > last
        assert [t.data for t in watch(client, done["id"])] == [done]


@pytest.mark.slow
def test_the_streams_end_when_the_server_stops(tmp_path: Path) -> None:
    seen: list[str] = []
    with live(tmp_path) as client:
        made = enqueue(client, "slow", steps=150)
        address = str(client.base_url)

        def read() -> None:
            with httpx.Client(base_url=address, timeout=60, trust_env=False) as reader:
                for told in watch(reader, made["id"]):
                    seen.append(told.kind)
            seen.append("end")

        reading = threading.Thread(target=read)
        reading.start()
        until(lambda: "progress" in seen)
    # Stopped: in a stream that was cut off rather than ended, its reader would have raised.
    reading.join()
    assert seen[-1] == "end"


@pytest.mark.parametrize("after", ["x", "", "1.5"])
def test_an_id_that_is_none_is_named(client: httpx.Client, after: str) -> None:
    made = enqueue(client, "a circle")
    answer = client.get(f"/api/v1/jobs/{made['id']}/events", headers={"Last-Event-ID": after})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"].lower() == "last-event-id"
    over(client, made["id"])


def test_a_job_that_is_not_there_cannot_be_watched(client: httpx.Client) -> None:
    assert client.get("/api/v1/jobs/nothing/events").status_code == 404
