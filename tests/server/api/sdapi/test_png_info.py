"""What an image says of how it was made, read by png-info and sent again as an infotext."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from webuiapi import WebUIApi

from server.api.submission import MOST_NOTES
from tests.support.image_files import b64

#: By A1111's documentation of its text; no model of this name is installed.
FOREIGN = (
    "a lighthouse <lora:Film:0.7>\nNegative prompt: fog\nSteps: 7, Sampler: DPM++ 2M Karras, CFG scale: 6, Seed: 9, Size: 96x64, "
    "Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Denoising strength: 0.5, Hires upscale: 2, Hires upscaler: Latent, ENSD: 31337"
)


def info_of(client: httpx.Client, path: str = "txt2img", **body: Any) -> dict[str, Any]:
    answer = client.post(f"/sdapi/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(json.loads(answer.json()["info"]))


def test_an_image_from_here_tells_its_parameters(api: WebUIApi) -> None:
    made = api.txt2img(prompt="a cat, a hat", negative_prompt="b", seed=5, width=64, height=96)
    told = api.png_info(made.image)
    assert told.info == made.info["infotexts"][0] == told.json["items"]["parameters"]
    parameters = told.parameters
    assert (parameters["Prompt"], parameters["Negative prompt"], parameters["Seed"]) == ("a cat, a hat", "b", "5")
    assert (parameters["Size"], parameters["Size-1"], parameters["Size-2"]) == ("64x96", "64", "96")


@pytest.mark.parametrize("name", ["png", "jpg", "webp"])
def test_images_of_every_format_tell_the_same(client: httpx.Client, name: str) -> None:
    body = {"prompt": "ä", "steps": 2, "override_settings": {"samples_format": name}}
    made = client.post("/sdapi/v1/txt2img", json=body).json()
    told = client.post("/sdapi/v1/png-info", json={"image": made["images"][0]}).json()
    assert told["info"] == json.loads(made["info"])["infotexts"][0]


def test_an_image_without_parameters_has_none_and_its_other_texts(client: httpx.Client) -> None:
    text = PngInfo()
    text.add_text("Software", "a painter")
    image = f"data:image/png;base64,{b64(Image.new('RGB', (8, 8)), pnginfo=text)}"
    told = client.post("/sdapi/v1/png-info", json={"image": image}).json()
    assert told == {"info": "", "items": {"Software": "a painter"}, "parameters": {}}


@pytest.mark.parametrize("image", [None, "", "QUJD", "http://a/b.png", 7, [], {}])
def test_what_is_no_image_is_refused(client: httpx.Client, image: Any) -> None:
    answer = client.post("/sdapi/v1/png-info", json={"image": image})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "image"]


def test_an_infotext_fills_in_what_is_left_out(client: httpx.Client) -> None:
    first = info_of(client, prompt="a cat", seed=7, steps=4, sampler_name="Heun", width=96, height=64)
    again = info_of(client, infotext=first["infotexts"][0])
    assert again["infotexts"] == first["infotexts"]
    assert again["comments"] == ""
    changed = info_of(client, infotext=first["infotexts"][0], prompt="a dog", steps=2)
    assert (changed["prompt"], changed["steps"], changed["seed"], changed["sampler_name"]) == ("a dog", 2, 7, "Heun")


def test_an_infotext_of_another_server_is_read_and_the_rest_told(client: httpx.Client) -> None:
    info = info_of(client, infotext=FOREIGN)
    told = {
        key: info[key]
        for key in ("prompt", "negative_prompt", "steps", "sampler_name", "seed", "width", "denoising_strength")
    }
    assert told == {
        "prompt": "a lighthouse", "negative_prompt": "fog", "steps": 7, "sampler_name": "DPM++ 2M", "seed": 9, "width": 192,
        "denoising_strength": 0.5,
    }  # fmt: skip
    assert info["extra_generation_params"]["Schedule type"] == "Karras"
    for note in (
        "ENSD '31337' is not used",
        "model 'v1-5-pruned-emaonly' is not installed",
        "the lora 'Film' is not known",
    ):
        assert note in info["comments"]


def test_keys_that_are_sent_go_before_an_infotexts_second_pass(client: httpx.Client) -> None:
    assert info_of(client, infotext=FOREIGN, enable_hr=False)["width"] == 96
    assert info_of(client, infotext=FOREIGN, enable_hr=True, hr_scale=1.5)["width"] == 144
    image = b64(Image.new("RGB", (96, 64)))
    assert info_of(client, "img2img", infotext=FOREIGN, init_images=[image])["width"] == 96


def test_upscalers_and_refiners_of_an_infotext_that_are_not_here_are_told(client: httpx.Client) -> None:
    text = FOREIGN.replace("upscaler: Latent", "upscaler: R-ESRGAN 4x+")
    info = info_of(client, infotext=f"{text}, Refiner: sd_xl_refiner_1.0 [7440042bbd], Refiner switch at: 0.8")
    assert info["width"] == 192
    assert "the infotext's upscaler 'R-ESRGAN 4x+' is not installed" in info["comments"]
    assert "the infotext's refiner 'sd_xl_refiner_1.0' is not installed" in info["comments"]


def test_what_the_model_does_not_accept_of_an_infotext_is_told(client: httpx.Client) -> None:
    text = "a\nSteps: 2, Sampler: Euler, Seed: 1, Size: 64x64, Clip skip: 2, Denoising strength: 0.2"
    info = info_of(client, infotext=text)
    assert "of the infotext, Clip skip '2' is not used: accepted: 1 with fake" in info["comments"]
    image = b64(Image.new("RGB", (64, 64)))
    info = info_of(client, "img2img", infotext=text, init_images=[image])
    assert info["denoising_strength"] == 0.75
    assert "of the infotext, Denoising strength '0.2' is not used: accepted: 0.5 to 1 with steps 2" in info["comments"]
    answer = client.post("/sdapi/v1/txt2img", json={"infotext": text, "clip_skip": 2})
    assert answer.json()["errors"].startswith("clip_skip is 2; accepted: 1 with fake")


def test_of_many_unused_settings_the_first_are_told_and_the_others_counted(client: httpx.Client) -> None:
    text = "a\nSteps: 1, Sampler: Euler, Seed: 1" + "".join(f", setting {i}: 1" for i in range(5000))
    notes = info_of(client, infotext=text)["comments"].splitlines()
    assert len(notes) == MOST_NOTES + 1
    assert notes[0] == "of the infotext, setting 0 '1' is not used: requests have no such field"
    assert notes[-1] == f"and {5000 - MOST_NOTES} more notes like these"
    (note,) = info_of(client, infotext=f"a\nSteps: 1, Sampler: Euler, Seed: 1, {'k' * 100_000}: 1")[
        "comments"
    ].splitlines()
    assert len(note) < 200


def test_there_is_nothing_that_describes_images(api: WebUIApi, client: httpx.Client) -> None:
    answer = client.post("/sdapi/v1/interrogate", json={"image": b64(Image.new("RGB", (8, 8))), "model": "clip"})
    assert answer.status_code == 404
    assert answer.json()["detail"] == "Model not found: this server has no model that describes images"
