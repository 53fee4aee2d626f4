from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image
from webuiapi import WebUIApi

from server.api.sdapi.bodies import Img2ImgBody
from server.api.sdapi.echo import echo_of
from tests.support.image_files import b64

Encoded = Callable[..., bytes]
SMALL = {"steps": 4, "width": 64, "height": 64}
RED = Image.new("RGB", (64, 64), "red")
#: White in the middle.
MASK = Image.new("L", (64, 64), 0)
MASK.paste(255, (16, 16, 48, 48))


def job_of(client: httpx.Client, **body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the job that a body makes of the red image, and the answer."""
    answer = client.post("/sdapi/v1/img2img", json={"init_images": [b64(RED)], **SMALL, **body})
    assert answer.status_code == 200, answer.text
    return client.get(f"/api/v1/jobs/{answer.headers['X-Job-Id']}").json(), answer.json()


def test_the_client_changes_an_image(api: WebUIApi) -> None:
    made = api.img2img([RED], prompt="a cat", denoising_strength=0.6, steps=5, width=64, height=64)
    # The fake pipeline's image has the color of its source.
    assert made.image.getpixel((0, 0)) == (255, 0, 0)
    assert made.info["denoising_strength"] == 0.6
    assert "Denoising strength: 0.6" in made.info["infotexts"][0]
    assert (made.parameters["init_images"], made.parameters["mask"]) == (None, None)
    assert made.info["comments"] == ""


def test_the_client_paints_a_masked_part(api: WebUIApi) -> None:
    made = api.img2img([RED], prompt="a cat", mask_image=MASK, steps=4, width=64, height=64)
    text = made.info["infotexts"][0]
    for setting in ("Mask blur: 4", "Masked content: fill", "Inpaint area: Only masked", "Masked area padding: 0"):
        assert setting in text
    assert made.info["comments"] == ""


def test_left_out_keys_are_as_automatic1111s_of_an_image(client: httpx.Client) -> None:
    job, _ = job_of(client)
    assert (job["task"], job["request"]["strength"]) == ("img2img", 0.75)
    job, _ = job_of(client, mask=b64(MASK))
    told = {key: job["request"][key] for key in ("strength", "mask_fill", "only_masked", "mask_padding", "mask_blur")}
    assert job["task"] == "inpaint"
    assert told == {"strength": 0.75, "mask_fill": "fill", "only_masked": True, "mask_padding": 0, "mask_blur": 4.0}


@pytest.mark.parametrize(("number", "name"), [(0, "fill"), (1, "original"), (2, "noise"), (3, "nothing")])
def test_what_a_masked_part_starts_from_has_a_number(client: httpx.Client, number: int, name: str) -> None:
    job, _ = job_of(client, mask=b64(MASK), inpainting_fill=number, inpaint_full_res=False, inpainting_mask_invert=1)
    assert job["request"]["mask_fill"] == name
    assert job["request"]["only_masked"] is False
    assert job["request"]["invert_mask"] is True


def test_the_blur_may_be_told_by_direction(client: httpx.Client) -> None:
    job, answer = job_of(client, mask=b64(MASK), mask_blur_x=2, mask_blur_y=8)
    assert job["request"]["mask_blur"] == 8
    assert "mask_blur_x and mask_blur_y differ" in json.loads(answer["info"])["comments"]


def test_images_that_were_sent_are_repeated_if_that_is_asked_for(client: httpx.Client) -> None:
    _, answer = job_of(client, include_init_images=True, mask=b64(MASK))
    assert answer["parameters"]["init_images"] == [b64(RED)]
    assert answer["parameters"]["mask"] == b64(MASK)
    _, answer = job_of(client, include_init_images=True, init_images=[None, b64(RED), "%%"], send_images=False)
    assert answer["parameters"]["init_images"] == [b64(RED)]
    assert answer["parameters"]["mask"] is None
    assert answer["images"] == []


def test_an_image_to_repeat_is_not_kept_in_memory_while_its_job_waits() -> None:
    image = bytes(30 * 2**20)
    body = Img2ImgBody(include_init_images=True)
    tracemalloc.start()
    echo = echo_of(body, {"image": image})
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    echo.close()
    assert kept < 2**20


@pytest.mark.parametrize(("mode", "noted"), [(0, True), (1, False), (2, True), (3, True)])
def test_a_fit_that_is_not_done_is_told_where_it_would_differ(client: httpx.Client, mode: int, noted: bool) -> None:
    _, same = job_of(client, resize_mode=mode)
    assert "resize_mode" not in json.loads(same["info"])["comments"]
    _, wider = job_of(client, resize_mode=mode, width=96)
    assert ("scaled to cover 96x64 and cropped" in json.loads(wider["info"])["comments"]) is noted


def test_the_first_of_several_images_is_used_and_the_rest_told(client: httpx.Client) -> None:
    _, answer = job_of(client, init_images=[f"data:image/png;base64,{b64(RED)}", b64(MASK)])
    assert "init_images has 2 images: the first was used" in json.loads(answer["info"])["comments"]


@pytest.mark.parametrize(("body", "place", "said"), [
    ({}, ["init_images"], "a list of one image"),
    ({"init_images": []}, ["init_images"], "a list of one image"),
    ({"init_images": [None]}, ["init_images"], "a list of one image"),
    ({"init_images": "text"}, ["init_images"], "a list"),
    ({"init_images": [7]}, ["init_images", 0], "base64 of a PNG"),
    ({"init_images": ["http://127.0.0.1/a.png"]}, ["init_images", 0], "does not fetch"),
    ({"init_images": ["QUJD"]}, ["init_images", 0], "this is text"),
    ({"init_images": [b64(RED)], "mask": "QUJD"}, ["mask"], "this is text"),
    ({"init_images": [b64(RED)], "mask": b64(Image.new("L", (64, 64)))}, ["mask"], "black all over"),
    ({"init_images": [b64(RED)], "denoising_strength": 2}, ["denoising_strength"], "above 0 and at most 1"),
    ({"init_images": [b64(RED)], "resize_mode": 7}, ["resize_mode"], "0 to 3"),
    ({"init_images": [b64(RED)], "mask": b64(MASK), "inpainting_fill": 4}, ["inpainting_fill"], "0 to 3"),
    ({"init_images": [b64(RED)], "mask": b64(MASK), "mask_blur": 99}, ["mask_blur"], "0 to 64"),
])  # fmt: skip
def test_a_wrong_image_is_named(client: httpx.Client, body: dict[str, Any], place: list[Any], said: str) -> None:
    answer = client.post("/sdapi/v1/img2img", json=body)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert detail["loc"] == ["body", *place]
    assert said in detail["msg"]
