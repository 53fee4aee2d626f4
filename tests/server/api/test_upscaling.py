"""POST /api/v1/upscale: any image, to any size, as a job like the others."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support import fake_pipeline
from tests.support.live_server import live, over, running, until, watch

pytestmark = pytest.mark.slow


def png(width: int = 90, height: int = 50) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def sent(client: httpx.Client, image: bytes | None = None, headers: Any = None, **fields: Any) -> httpx.Response:
    files = {"image": ("small.png", png() if image is None else image)}
    return client.post("/api/v1/upscale", data=fields, files=files, headers=headers)


def test_the_bundled_upscaler_needs_nothing_but_an_image(client: httpx.Client) -> None:
    answer = sent(client, upscaler="shapes-2x")
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(answer.content)).size == (180, 100)
    assert "x-anemone-seed" not in answer.headers
    job = over(client, answer.headers["x-job-id"])
    assert job["status"] == "succeeded"
    assert job["model"] == "upscalers/shapes-2x"
    assert job["request"] == {"upscaler": "shapes-2x", "width": 180, "height": 100}
    assert job["images"][0]["seed"] is None


def test_json_and_an_exact_size_in_another_format(client: httpx.Client) -> None:
    body = {"image": base64.b64encode(png()).decode(), "upscaler": "lanczos", "width": 333, "height": 77}
    answer = client.post("/api/v1/upscale", json=body | {"format": "webp"})
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).size == (333, 77)


def test_a_job_is_repeated_by_its_key_and_leaves_the_model_loaded(client: httpx.Client) -> None:
    loaded = client.get("/api/v1/capabilities").json()["loaded"]
    headers = {"Prefer": "respond-async", "Idempotency-Key": "upscale once"}
    first, second = (sent(client, headers=headers, scale="3") for _ in range(2))
    assert first.status_code == second.status_code == 202
    assert first.json()["id"] == second.json()["id"]
    job = over(client, first.json()["id"])
    assert (job["request"]["width"], job["request"]["height"]) == (270, 150)
    assert client.get("/api/v1/capabilities").json()["loaded"] == loaded


def test_capabilities_list_the_upscalers(client: httpx.Client) -> None:
    upscalers = client.get("/api/v1/capabilities").json()["upscalers"]
    assert upscalers == [
        {"name": "lanczos", "scale": None},
        {"name": "nearest", "scale": None},
        {"name": "shapes-2x", "scale": 2},
    ]


@pytest.mark.parametrize(
    ("fields", "field", "accepted"),
    [
        ({"upscaler": "x4plus"}, "upscaler", "lanczos, nearest, shapes-2x"),
        ({"scale": "100"}, "scale", "1 to 8"),
        ({"scale": "2", "width": "90"}, "scale", "leave one out"),
        ({"width": "16000", "height": "16000"}, "width", "16777216 pixels"),
    ],
)
def test_what_is_wrong_gets_a_422_that_says_what_is_accepted(
    client: httpx.Client, fields: dict[str, str], field: str, accepted: str
) -> None:
    answer = sent(client, **fields)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["field"] == field
    assert accepted in error["accepted"]


def test_what_is_no_image_is_named(client: httpx.Client) -> None:
    answer = sent(client, b"GIF89a")
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "image"


def test_hires_fix_with_an_unknown_upscaler_is_refused(client: httpx.Client) -> None:
    answer = client.post("/api/v1/txt2img", json={"prompt": "a", "hires_scale": 2, "hires_upscaler": "x4plus"})
    assert answer.status_code == 422
    assert answer.json()["error"]["accepted"] == "latent, lanczos, nearest, shapes-2x"


def _state(client: httpx.Client) -> str:
    return str(client.get("/readyz").json()["state"])


def test_it_does_not_wait_for_the_conversion_of_a_model_that_it_does_not_need(tmp_path: Path) -> None:
    with live(tmp_path, checkpoint="slow.safetensors", ready=False) as client:
        until(lambda: _state(client) == "converting")
        assert sent(client).status_code == 200
        assert _state(client) == "converting"
        until(lambda: _state(client) == "ready")
        assert client.post("/api/v1/txt2img", json={"prompt": "a"}).status_code == 200


@pytest.mark.parametrize(
    ("model", "checkpoint"), [(fake_pipeline.BROKEN, None), (fake_pipeline.DEADLY, None), ("fake", "bad.safetensors")]
)
def test_it_works_though_the_first_model_has_failed(tmp_path: Path, model: str, checkpoint: str | None) -> None:
    with live(tmp_path, model, checkpoint=checkpoint, ready=False) as client:
        until(lambda: _state(client) == "failed")
        for _ in range(2):
            assert sent(client).status_code == 200
        assert _state(client) == "failed"
        assert client.post("/api/v1/txt2img", json={"prompt": "a"}).status_code in (500, 503)


def enqueued(client: httpx.Client, side: int) -> dict[str, Any]:
    answer = sent(client, png(side, side), {"Prefer": "respond-async"}, upscaler="shapes-2x")
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def test_its_progress_is_told_tile_by_tile(client: httpx.Client) -> None:
    job_id = enqueued(client, 300)["id"]
    told = [event.data for event in watch(client, job_id) if event.kind == "progress"]
    assert [step["step"] for step in told] == [1, 2, 3, 4]
    assert {step["steps"] for step in told} == {4}
    assert told[-1]["fraction"] == 1
    assert over(client, job_id)["status"] == "succeeded"


def test_it_is_cancelled_between_two_tiles(client: httpx.Client) -> None:
    job = running(client, enqueued(client, 2000)["id"])
    assert client.delete(f"/api/v1/jobs/{job['id']}").status_code == 200
    done = over(client, job["id"])
    assert (done["status"], done["images"]) == ("cancelled", [])
    # The worker is free for the next.
    assert sent(client).status_code == 200


def test_it_is_made_again_after_a_restart_and_is_the_same(tmp_path: Path, client: httpx.Client) -> None:
    sides = (300, 90)
    with live(tmp_path) as before:
        ids = [enqueued(before, side)["id"] for side in sides]
        running(before, ids[0])
    with live(tmp_path) as after:
        jobs = [over(after, job_id) for job_id in ids]
        assert [job["status"] for job in jobs] == ["succeeded"] * 2
        images = [after.get(job["images"][0]["url"]).content for job in jobs]
    assert images == [sent(client, png(side, side), upscaler="shapes-2x").content for side in sides]


def test_a_job_with_a_second_pass_says_how_large_its_image_is(client: httpx.Client) -> None:
    fields = {"prompt": "a", "width": 96, "hires_scale": 1.5, "hires_upscaler": "latent"}
    answer = client.post("/api/v1/txt2img", json=fields, headers={"Prefer": "respond-async"})
    job = over(client, answer.json()["id"])
    assert (job["size"], job["computed"]) == ({"width": 144, "height": 96}, {"width": 96, "height": 64})
