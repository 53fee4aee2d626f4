from __future__ import annotations

from typing import Any

import httpx
import pytest
from PIL import Image
from webuiapi import WebUIApi

from tests.support.image_files import b64
from tests.support.live_server import enqueue, over

SMALL = Image.linear_gradient("L").resize((64, 48)).convert("RGB")


@pytest.mark.parametrize(("body", "size"), [
    ({"upscaler_1": "Lanczos"}, (128, 96)),
    ({"upscaler_1": "nearest", "upscaling_resize": 3}, (192, 144)),
    ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 90, "upscaling_resize_h": 90}, (90, 90)),
    ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 90, "upscaling_resize_h": 90,
      "upscaling_crop": False}, (120, 90)),
    ({}, (64, 48)),
])  # fmt: skip
def test_an_image_is_enlarged_as_the_client_asks(api: WebUIApi, body: dict[str, Any], size: tuple[int, int]) -> None:
    assert api.extra_single_image(SMALL, **body).image.size == size


@pytest.mark.parametrize("name", ["None", "none", ""])
def test_without_an_upscaler_an_image_stays_as_it_is(api: WebUIApi, name: str) -> None:
    made = api.extra_single_image(SMALL, upscaler_1=name)
    assert made.image.tobytes() == SMALL.tobytes()
    assert "left as large as it is" in made.info


def test_an_enlargement_is_a_job(client: httpx.Client) -> None:
    body = {"image": b64(SMALL), "upscaler_1": "Lanczos", "codeformer_visibility": 1, "upscaler_2": "x"}
    answer = client.post("/sdapi/v1/extra-single-image", json=body)
    job = client.get(f"/api/v1/jobs/{answer.headers['X-Job-Id']}").json()
    assert (job["task"], job["model"], job["status"]) == ("upscale", "upscalers/lanczos", "succeeded")
    note = "codeformer_visibility was not used: faces are not restored here"
    assert job["notes"] == [note]
    assert answer.json()["html_info"] == f"<p>{note}</p>"


def test_a_batch_is_a_job_for_each_image(api: WebUIApi, client: httpx.Client) -> None:
    made = api.extra_batch_images([SMALL, SMALL.resize((32, 32))], upscaler_1="Lanczos")
    assert [image.size for image in made.images] == [(128, 96), (64, 64)]


@pytest.mark.parametrize(("path", "body", "place", "said"), [
    ("extra-single-image", {}, ["image"], "base64 of a PNG"),
    ("extra-single-image", {"image": "QUJD"}, ["image"], "this is text"),
    ("extra-single-image", {"image": b64(SMALL), "upscaler_1": "4x-UltraSharp"}, ["upscaler_1"], "lanczos, nearest"),
    ("extra-single-image", {"image": b64(SMALL), "upscaler_1": "Lanczos", "upscaling_resize": 9}, ["upscaling_resize"], "1 to 8"),
    ("extra-single-image", {"image": b64(SMALL), "resize_mode": 2}, ["resize_mode"], "0, 1"),
    ("extra-batch-images", {}, ["imageList"], "a list of images"),
    ("extra-batch-images", {"imageList": [{"data": b64(SMALL)}, {"data": "QUJD"}]}, ["imageList", 1, "data"], "this is text"),
    ("extra-batch-images", {"imageList": [{}] * 17}, ["imageList"], "at most 16"),
])  # fmt: skip
def test_what_is_wrong_is_named(client: httpx.Client, path: str, body: Any, place: list[Any], said: str) -> None:
    answer = client.post(f"/sdapi/v1/{path}", json=body)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert detail["loc"] == ["body", *place]
    assert said in detail["msg"]


def test_a_batch_that_is_refused_leaves_no_jobs(client: httpx.Client) -> None:
    busy = enqueue(client, "slow", steps=100)["id"]  # so that none of the batch ends before it is cancelled
    body = {"upscaler_1": "Lanczos", "imageList": [{"data": b64(SMALL)}, {"data": "QUJD"}]}
    assert client.post("/sdapi/v1/extra-batch-images", json=body).status_code == 422
    newest = client.get("/api/v1/jobs").json()["jobs"][0]
    assert (newest["task"], newest["status"]) == ("upscale", "cancelled")
    client.delete(f"/api/v1/jobs/{busy}")
    over(client, busy)
