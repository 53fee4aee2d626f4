"""An image that is sent tells the request that made it."""

from __future__ import annotations

import io
from collections.abc import Callable

import httpx
from PIL import Image, PngImagePlugin

TEXT = (
    "a cat, masterpiece\nNegative prompt: blurry\nSteps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, "
    "Seed: 5, Size: 512x768, Model hash: 6ce0161689, Model: v1-5, Face restoration: GFPGAN, Version: v1.10.1"
)


def told(client: httpx.Client, data: bytes) -> dict[str, object]:
    answer = client.post("/api/v1/infotext", files={"image": ("a.png", data)})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_an_image_of_ours_gives_back_its_request_and_its_model(client: httpx.Client) -> None:
    fields = {"prompt": "a (red:1.2) circle", "seed": 7, "steps": 4, "guidance_scale": 3.25, "sigmas": "karras"}
    made = client.post("/api/v1/txt2img", json=fields)
    read = told(client, made.content)
    assert (read["task"], read["model"], read["images"], read["unused"]) == ("txt2img", "fake", [], [])
    again = client.post("/api/v1/txt2img", json={**read["fields"], "model": read["model"]})  # type: ignore[dict-item]
    assert again.content == made.content


def test_an_image_of_automatic1111_gives_its_fields_and_what_is_not_known(client: httpx.Client) -> None:
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("parameters", TEXT)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    read = told(client, file.getvalue())
    fields = read["fields"]
    assert isinstance(fields, dict)
    assert (fields["scheduler"], fields["sigmas"], fields["rng"]) == ("dpm++_2m", "karras", "cuda")
    assert (read["named"], read["model"]) == ("v1-5", None)
    assert "Face restoration" in str(read["unused"])


def test_an_image_without_a_text_says_so(client: httpx.Client, encoded: Callable[..., bytes]) -> None:
    assert told(client, encoded()) == {
        "text": None, "task": None, "fields": {}, "images": [], "model": None, "named": None, "unused": [],
    }  # fmt: skip


def test_what_is_no_image_is_refused_by_its_field(client: httpx.Client) -> None:
    answer = client.post("/api/v1/infotext", files={"image": ("a.png", b"no image")})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "image")
