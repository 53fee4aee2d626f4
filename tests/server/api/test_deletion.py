from __future__ import annotations

from pathlib import Path

import httpx

from tests.support.live_server import enqueue, live, over, running


def delete(client: httpx.Client, made: dict[str, str]) -> httpx.Response:
    return client.delete(f"{made['url']}/images")


def test_a_deleted_job_is_gone_with_its_files_and_answers_410(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        kept, made = (over(client, enqueue(client, "a circle", n=2)["id"]) for _ in range(2))
        assert len(list((tmp_path / "images").glob("*.png"))) == 4
        assert (delete(client, made).status_code, delete(client, made).status_code) == (204, 410)
        for url in (made["url"], made["images"][0]["url"]):
            assert client.get(url).json()["error"]["code"] == "expired"
        assert [job["id"] for job in client.get("/api/v1/jobs").json()["jobs"]] == [kept["id"]]
        assert len(list((tmp_path / "images").glob("*.png"))) == 2
        assert client.get(kept["images"][1]["url"]).status_code == 200


def test_an_open_job_is_not_deleted_until_it_is_cancelled(client: httpx.Client) -> None:
    made = enqueue(client, "slow", steps=100)
    waiting = enqueue(client, "slow", steps=100)
    running(client, made["id"])
    for job, state in ((made, "running"), (waiting, "queued")):
        refused = delete(client, job)
        assert refused.status_code == 409
        assert f"is {state}; only a job that has ended can be deleted" in refused.json()["error"]["message"]
    for job in (waiting, made):
        client.delete(job["url"])
        over(client, job["id"])
        assert delete(client, job).status_code == 204


def test_a_job_that_never_was_cannot_be_deleted(client: httpx.Client) -> None:
    assert client.delete("/api/v1/jobs/nothing/images").status_code == 404


def test_the_same_request_with_the_key_of_a_deleted_job_makes_a_new_one(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "deleted-once", "Prefer": "respond-async"}
    first, second = (
        over(client, client.post("/api/v1/txt2img", json={"prompt": "a circle"}, headers=headers).json()["id"])
        for _ in range(2)
    )
    assert first["id"] == second["id"]
    assert delete(client, first).status_code == 204
    again = client.post("/api/v1/txt2img", json={"prompt": "a circle"}, headers=headers).json()
    assert again["id"] != first["id"]
    over(client, again["id"])
