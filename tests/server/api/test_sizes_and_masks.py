"""Sizes, masks and extensions over the API: what is accepted, what a job says of it, and what is stored."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import encoded

IMAGE = encoded(Image.new("RGB", (80, 72), "red"))
MASK = encoded(Image.fromarray(np.where(np.arange(80) < 40, 255, 0).astype(np.uint8)[None].repeat(72, 0)))


def sent(
    client: httpx.Client, task: str, mask: bytes | None = None, image: bytes = IMAGE, **fields: Any
) -> httpx.Response:
    files = {"image": ("image.png", image, "image/png")}
    if mask is not None:
        files["mask"] = ("mask.png", mask, "image/png")
    return client.post(f"/api/v1/{task}", data={"prompt": "a", **fields}, files=files)


def job_of(client: httpx.Client, answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return client.get(answer.headers["content-location"]).json()


def size_of(answer: httpx.Response) -> tuple[int, int]:
    return Image.open(io.BytesIO(answer.content)).size


@pytest.mark.parametrize(
    ("size", "computed"), [((300, 200), (96, 64)), ((64, 64), (64, 64)), ((65, 700), (64, 64)), ((777, 512), (96, 64))]
)
def test_an_image_of_any_size_is_made_and_the_job_says_which_is_computed(client, size, computed):
    answer = client.post("/api/v1/txt2img", json={"prompt": "a", "width": size[0], "height": size[1]})
    assert size_of(answer) == size
    job = job_of(client, answer)
    assert (job["request"]["width"], job["request"]["height"]) == size
    assert (job["computed"]["width"], job["computed"]["height"]) == computed
    assert f"Size: {size[0]}x{size[1]}," in Image.open(io.BytesIO(answer.content)).text["parameters"]


def test_an_inpainted_image_is_as_large_as_the_one_that_was_sent_and_an_extended_one_larger(client):
    assert size_of(sent(client, "inpaint", MASK)) == (80, 72)
    assert size_of(sent(client, "inpaint", MASK, width="96", height="64")) == (96, 64)
    assert size_of(sent(client, "outpaint", extend_left="7", extend_bottom="20")) == (87, 92)


def test_what_is_painted_has_strength_1_unless_another_is_sent(client):
    assert job_of(client, sent(client, "inpaint", MASK))["request"]["strength"] == 1
    assert job_of(client, sent(client, "outpaint", extend_top="8"))["request"]["strength"] == 1
    assert job_of(client, sent(client, "inpaint", MASK, strength="0.5"))["request"]["strength"] == 0.5


@pytest.mark.parametrize(
    ("task", "mask", "fields", "field", "accepted"),
    [
        ("outpaint", None, {"extend_left": "5000"}, "extend_left", "0 to 2048"),
        ("outpaint", None, {"extend_left": "0"}, "extend_left", "at least one"),
        ("outpaint", None, {"extend_left": "8", "width": "512"}, "width", "leave it out"),
        ("inpaint", MASK, {"strength": "2"}, "strength", "at most 1"),
        ("inpaint", MASK, {"mask_padding": "8"}, "mask_padding", "only_masked"),
        ("inpaint", MASK, {"mask_fill": "flowers"}, "mask_fill", "original, fill, noise, nothing"),
        ("inpaint", MASK, {"mask_blur": "-1"}, "mask_blur", "0 to 64"),
    ],
)
def test_what_contradicts_a_mask_or_an_extension_is_named(client, task, mask, fields, field, accepted):
    answer = sent(client, task, mask, **fields)
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert (error["code"], error["field"]) == ("invalid_field", field)
    assert str(fields[field]) in error["message"]
    assert accepted in error["accepted"]


def test_an_extension_beyond_the_limit_says_what_the_image_would_be(client):
    large = encoded(Image.new("L", (3000, 64)))
    error = sent(client, "outpaint", image=large, extend_right="2000").json()["error"]
    assert error["field"] == "extend_right"
    assert "64 to 4096" in error["accepted"]
    assert "5000" in error["accepted"]


@pytest.mark.parametrize("invert", ["false", "true"])
def test_a_mask_of_nothing_is_refused_and_one_of_everything_noted(client, invert):
    black, white = (encoded(Image.new("L", (80, 72), value)) for value in (0, 255))
    nothing, everything = (black, white) if invert == "false" else (white, black)
    answer = sent(client, "inpaint", nothing, invert_mask=invert)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "mask")
    assert "nothing is painted" in answer.json()["error"]["message"]
    notes = job_of(client, sent(client, "inpaint", everything, invert_mask=invert))["notes"]
    assert any("whole image is painted again" in note for note in notes)


def test_a_mask_of_another_size_is_scaled_and_said_so(client):
    mask = encoded(Image.open(io.BytesIO(MASK)).resize((40, 36)))
    (note,) = job_of(client, sent(client, "inpaint", mask))["notes"]
    assert note == "the mask is 40x36 and was scaled to the image's 80x72"


def test_a_fill_that_strength_1_leaves_no_trace_of_is_noted(client):
    (note,) = job_of(client, sent(client, "inpaint", MASK, mask_fill="noise"))["notes"]
    assert "no effect at strength 1" in note
    assert job_of(client, sent(client, "inpaint", MASK, mask_fill="noise", strength="0.8"))["notes"] == []


def test_a_mask_that_is_no_image_is_named(client):
    answer = sent(client, "inpaint", b"GIF89a" + bytes(50))
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "mask")


def test_an_image_larger_than_an_image_may_be_is_scaled_and_said_so(client):
    image = encoded(Image.new("L", (6000, 3000), "white"))
    mask = encoded(Image.new("L", (6000, 3000), "gray"))
    answer = sent(client, "inpaint", mask, image=image)
    assert size_of(answer) == (4096, 2048)
    (note,) = job_of(client, answer)["notes"]
    assert note == "the image is 6000x3000 and was scaled to 4096x2048: a side may have 64 to 4096 pixels"


def test_of_an_animated_image_the_first_frame_is_used_and_that_is_said(client: httpx.Client) -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    for path, data in (("img2img", {"prompt": "a"}), ("upscale", {"upscaler": "lanczos"})):
        answer = client.post(f"/api/v1/{path}", files={"image": animated}, data=data)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-anemone-notes"] == "image is animated: its first frame is used"
        red, _, blue = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))[0, 0]
        assert red > 200 > 50 > blue
