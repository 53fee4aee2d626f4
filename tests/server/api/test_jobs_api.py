from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.live_server import PATIENCE, enqueue, job, live, over, running, until


@pytest.mark.parametrize(
    "prefer",
    [
        [("Prefer", "respond-async")],
        [("Prefer", "Respond-Async")],
        [("Prefer", "respond-async, wait=10")],
        [("Prefer", "return=minimal, respond-async")],
        [("Prefer", 'handling=lenient; x="a,b" , respond-async')],
        [("Prefer", "return=minimal"), ("Prefer", "respond-async")],
    ],
)
def test_a_client_may_have_its_job_at_once(client: httpx.Client, prefer: list[tuple[str, str]]) -> None:
    answer = client.post("/api/v1/txt2img", json={"prompt": "a circle"}, headers=prefer)
    assert answer.status_code == 202, answer.text
    assert answer.headers["preference-applied"] == "respond-async"
    reply = over(client, answer.json()["id"])
    assert answer.headers["location"] == f"/api/v1/jobs/{reply['id']}"
    assert reply["status"] == "succeeded"


@pytest.mark.parametrize(
    "prefer", ["return=minimal", "wait=5", "respond-asynchronously", 'x="respond-async"', 'x=", respond-async"', ""]
)
def test_other_preferences_wait_for_the_image(client: httpx.Client, prefer: str) -> None:
    answer = client.post("/api/v1/txt2img", json={"prompt": "a circle"}, headers={"Prefer": prefer})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def test_a_job_tells_how_far_it_is(client: httpx.Client) -> None:
    made = enqueue(client, "slow", steps=20)
    at = running(client, made["id"])
    assert at["status"] == "running"
    assert 1 <= at["progress"]["step"] <= at["progress"]["steps"] == 20
    assert 0 < at["progress"]["fraction"] < 1
    client.delete(f"/api/v1/jobs/{made['id']}")
    over(client, made["id"])


def test_jobs_wait_in_line_and_are_done_in_their_order(client: httpx.Client) -> None:
    made = [enqueue(client, f"slow {i}", steps=2) for i in range(3)]
    assert job(client, made[2]["id"])["position"] in (1, 2)
    done = [over(client, m["id"]) for m in made]
    assert [d["status"] for d in done] == ["succeeded"] * 3
    assert sorted(done, key=lambda d: d["finished"]) == done


def test_jobs_are_listed_the_newest_first(client: httpx.Client) -> None:
    made = [enqueue(client, "a circle")["id"] for _ in range(2)]
    assert [j["id"] for j in client.get("/api/v1/jobs").json()["jobs"]][:2] == made[::-1]


def test_jobs_are_listed_by_page_status_and_model(client: httpx.Client) -> None:
    made = [over(client, enqueue(client, "fail" if i % 2 else "a circle")["id"])["id"] for i in range(5)]
    first = client.get("/api/v1/jobs?limit=2").json()
    assert [j["id"] for j in first["jobs"]] == [made[4], made[3]]
    second = client.get(f"/api/v1/jobs?limit=2&before={first['next']}").json()
    assert [j["id"] for j in second["jobs"]] == [made[2], made[1]]
    failed = client.get("/api/v1/jobs?limit=2&status=failed").json()["jobs"]
    assert [j["id"] for j in failed] == [made[3], made[1]]
    both = client.get("/api/v1/jobs?limit=5&status=failed&status=succeeded&model=fake").json()["jobs"]
    assert [j["id"] for j in both] == made[::-1]
    assert client.get("/api/v1/jobs?model=other").json() == {"jobs": [], "next": None}


def test_a_page_of_jobs_with_long_prompts_is_short(client: httpx.Client) -> None:
    made = [enqueue(client, "a circle" + "\U0001f534" * 9000)["id"] for _ in range(30)]
    page = client.get("/api/v1/jobs?limit=100")
    assert len(page.content) < 2**20
    listed = [j["id"] for j in page.json()["jobs"]]
    assert 0 < len(listed) < 30
    rest = client.get(f"/api/v1/jobs?limit=100&before={page.json()['next']}").json()["jobs"]
    assert (listed + [j["id"] for j in rest])[:30] == made[::-1]


@pytest.mark.parametrize(
    ("query", "field", "accepted"),
    [
        ("status=done", "status.0", "or cancelled"),
        ("limit=0", "limit", "1"),
        ("limit=101", "limit", "100"),
        ("limit=many", "limit", "a whole number"),
        ("before=-1", "before", "0"),
        (f"before={2**64}", "before", "at most"),
        ("before=x", "before", "a whole number"),
    ],
)
def test_a_page_that_cannot_be_is_named(client: httpx.Client, query: str, field: str, accepted: str) -> None:
    answer = client.get(f"/api/v1/jobs?{query}")
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert accepted in answer.json()["error"]["accepted"]


@pytest.mark.slow
def test_a_job_tells_what_its_time_went_into_and_how_long_it_will_take(client: httpx.Client) -> None:
    over(client, enqueue(client, "slow", steps=2)["id"])
    first, second = enqueue(client, "slow", steps=10), enqueue(client, "slow", steps=10)
    waiting = job(client, second["id"])
    assert waiting["eta"] > 0
    assert waiting["timings"]["running"] is None
    at = running(client, first["id"])
    assert 0 < at["eta"] < waiting["eta"] + 60
    assert at["timings"]["step"] >= 0.1
    done = over(client, first["id"])
    assert done["eta"] is None
    assert done["timings"]["running"] >= 10 * 0.1
    assert done["timings"]["step"] >= 0.1
    client.delete(f"/api/v1/jobs/{second['id']}")
    over(client, second["id"])


def test_a_running_job_ends_within_a_step_of_its_cancelling(client: httpx.Client) -> None:
    made = enqueue(client, "slow", steps=150)
    before = running(client, made["id"])["progress"]["step"]
    assert client.delete(f"/api/v1/jobs/{made['id']}").status_code == 200
    ended_job = over(client, made["id"])
    assert ended_job["status"] == "cancelled"
    assert ended_job["finished"] - ended_job["started"] < (before + 20) * 0.1
    assert ended_job["images"] == []


@pytest.mark.slow
def test_a_queued_job_that_is_cancelled_never_runs(client: httpx.Client) -> None:
    first, second = enqueue(client, "slow", steps=10), enqueue(client, "slow", steps=10)
    answer = client.delete(f"/api/v1/jobs/{second['id']}")
    assert answer.json()["status"] == "cancelled"
    assert over(client, first["id"])["status"] == "succeeded"
    assert job(client, second["id"])["started"] is None


def test_a_client_that_waits_for_a_cancelled_job_is_told(client: httpx.Client) -> None:
    import threading

    answers: list[httpx.Response] = []
    waiting = threading.Thread(
        target=lambda: answers.append(client.post("/api/v1/txt2img", json={"prompt": "slow wait", "steps": 150}))
    )
    waiting.start()
    reply = None
    while reply is None:
        jobs = client.get("/api/v1/jobs").json()["jobs"]
        reply = next((j for j in jobs if j["request"]["prompt"] == "slow wait"), None)
    client.delete(f"/api/v1/jobs/{reply['id']}")
    waiting.join()
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (409, "cancelled")


def test_cancelling_a_job_that_is_over_changes_nothing(client: httpx.Client) -> None:
    made = over(client, enqueue(client, "a circle")["id"])
    client.delete(f"/api/v1/jobs/{made['id']}")
    assert job(client, made["id"]) == made


def test_a_client_that_hangs_up_does_not_lose_its_job(client: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.post(
            "/api/v1/txt2img", json={"prompt": "slow orphan", "steps": 8}, timeout=httpx.Timeout(PATIENCE, read=0.3)
        )

    def orphaned() -> dict[str, Any] | None:
        jobs = client.get("/api/v1/jobs").json()["jobs"]
        return next((j for j in jobs if j["request"]["prompt"] == "slow orphan"), None)

    orphan = until(orphaned)
    assert over(client, orphan["id"])["status"] == "succeeded"


def test_images_that_are_not_there_answer_404(client: httpx.Client) -> None:
    made = over(client, enqueue(client, "a circle")["id"])
    for path in (
        f"/api/v1/jobs/{made['id']}/images/1",
        f"/api/v1/jobs/{made['id']}/images/-1",
        "/api/v1/jobs/x/images/0",
    ):
        answer = client.get(path)
        assert answer.status_code == 404, answer.text
    assert client.get(f"/api/v1/jobs/{made['id']}/images/first").status_code in (404, 422)
    assert client.delete("/api/v1/jobs/nothing").status_code == 404


@pytest.mark.slow
def test_an_image_whose_file_is_damaged_answers_404_and_says_so(tmp_path: Path) -> None:
    def truncate(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:-20])

    def alter(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    def replace_by_a_folder(file: Path) -> None:
        file.unlink()
        file.mkdir()

    with live(tmp_path) as client:
        made = over(client, enqueue(client, "a circle")["id"])
        url = made["images"][0]["url"]
        assert client.get(url).status_code == 200
        (file,) = (tmp_path / "images").glob("*.png")
        whole = file.read_bytes()
        for damage, word in (
            (truncate, "damaged"),
            (alter, "damaged"),
            (Path.unlink, "missing"),
            (replace_by_a_folder, "missing"),
        ):
            if not file.is_dir():
                file.write_bytes(whole)
            damage(file)
            answer = client.get(url)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_image")
            assert word in answer.json()["error"]["message"]
        assert job(client, made["id"])["status"] == "succeeded"


def test_the_image_is_sent_as_what_it_is(client: httpx.Client) -> None:
    made = over(client, enqueue(client, "a circle")["id"])
    answer = client.get(made["images"][0]["url"])
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content.startswith(b"\x89PNG")


def test_capabilities_say_what_may_be_asked(client: httpx.Client) -> None:
    reply = client.get("/api/v1/capabilities").json()
    assert reply["model"]["name"] == "fake"
    assert reply["model"]["sizes"] == [{"width": 64, "height": 64}, {"width": 96, "height": 64}]
    assert reply["defaults"]["steps"] == 3
    assert "euler" in reply["schedulers"]
    assert reply["limits"]["steps"] == [1, 150]
    assert reply["model"]["refiners"] == []


def test_capabilities_have_the_range_of_every_number_of_every_call(client: httpx.Client) -> None:
    """As the document's own schemas of the calls' bodies have them."""
    limits, schemas = (
        client.get("/api/v1/capabilities").json()["limits"],
        client.get("/openapi.json").json()["components"],
    )
    bodies = {"Txt2Img": limits, "Inpaint": limits, "Outpaint": limits, "Control": limits["control"]} | {
        name: limits[name.lower()] for name in ("Upscale", "Palette", "Preprocess")
    }
    for name, ranges in bodies.items():
        for field, schema in schemas["schemas"][name]["properties"].items():
            numbers = [s for s in (schema, *schema.get("anyOf", ())) if s.get("type") in ("integer", "number")]
            for number in numbers:
                low = number.get("minimum", number.get("exclusiveMinimum"))
                # A seed of -1 stands for a random one.
                assert ranges[field] == [max(low, 0), number["maximum"]], (name, field)
