from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from webuiapi import WebUIApi

from tests.support.image_files import of_b64

SMALL = {"steps": 2, "width": 64, "height": 64}


def test_the_client_gets_an_image_with_its_parameters(api: WebUIApi, client: httpx.Client) -> None:
    made = api.txt2img(prompt="a cat", negative_prompt="a dog", seed=7, cfg_scale=5, width=64, height=96)
    assert made.image.size == (64, 96)
    (text,) = made.info["infotexts"]
    assert text == made.image.info["parameters"]
    assert text.startswith("a cat\nNegative prompt: a dog\nSteps: 2, Sampler: Euler a,")
    told = {
        key: made.info[key] for key in ("seed", "all_seeds", "width", "height", "sampler_name", "steps", "cfg_scale")
    }
    assert told == {
        "seed": 7, "all_seeds": [7], "width": 64, "height": 96, "sampler_name": "Euler a", "steps": 2, "cfg_scale": 5,
    }  # fmt: skip
    assert made.parameters["prompt"] == "a cat"
    assert made.info["comments"] == ""


def test_info_has_every_key_of_automatic1111s(api: WebUIApi) -> None:
    # Processed.js() of modules/processing.py, version 1.10.
    keys = {
        "prompt", "all_prompts", "negative_prompt", "all_negative_prompts", "seed", "all_seeds", "subseed", "all_subseeds",
        "subseed_strength", "width", "height", "sampler_name", "cfg_scale", "steps", "batch_size", "restore_faces",
        "face_restoration_model", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash", "seed_resize_from_w",
        "seed_resize_from_h", "denoising_strength", "extra_generation_params", "index_of_first_image", "infotexts", "styles",
        "job_timestamp", "clip_skip", "is_using_inpainting_conditioning", "version",
    }  # fmt: skip
    assert keys <= set(api.txt2img(prompt="a", width=64, height=64).info)


def test_a_size_that_the_model_was_not_converted_for_is_made_and_both_are_told(client: httpx.Client) -> None:
    made = client.post("/sdapi/v1/txt2img", json={**SMALL, "width": 300, "height": 200}).json()
    info = json.loads(made["info"])
    with of_b64(made["images"][0]) as image:
        assert image.size == (info["width"], info["height"]) == (300, 200)
    assert (info["computed_width"], info["computed_height"]) == (96, 64)


def test_batches_are_one_job_of_all_their_images(client: httpx.Client) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, "seed": 4, "batch_size": 2, "n_iter": 2})
    job = client.get(f"/api/v1/jobs/{answer.headers['X-Job-Id']}").json()
    assert (job["status"], job["task"], len(job["images"])) == ("succeeded", "txt2img", 4)
    info = json.loads(answer.json()["info"])
    assert info["all_seeds"] == [4, 5, 6, 7]
    assert len(info["infotexts"]) == len(answer.json()["images"]) == 4


def test_what_is_left_out_takes_the_models_defaults(client: httpx.Client) -> None:
    nulls = dict.fromkeys(
        ("prompt", "steps", "cfg_scale", "width", "sampler_name", "override_settings", "styles", "seed")
    )
    for body in ({}, nulls):
        info = json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"])
        assert (info["steps"], info["cfg_scale"], info["sampler_name"], info["width"]) == (3, 4.5, "Euler", 64)


@pytest.mark.parametrize(("headers", "name"), [
    ({}, "missing"),
    ({"Content-Type": "text/plain"}, "text"),
    ({"Content-Type": "application/x-www-form-urlencoded"}, "form"),
])  # fmt: skip
def test_the_type_of_a_body_does_not_matter(client: httpx.Client, headers: dict[str, str], name: str) -> None:
    answer = client.post("/sdapi/v1/txt2img", content=json.dumps({**SMALL, "prompt": name}), headers=headers)
    assert json.loads(answer.json()["info"])["prompt"] == name


@pytest.mark.parametrize(("body", "sampler", "schedule"), [
    ({"sampler_name": "DPM++ 2M Karras"}, "DPM++ 2M", "Karras"),
    ({"sampler_index": "DPM++ SDE Karras"}, "DPM++ SDE", "Karras"),
    ({"sampler_name": "dpm++ 2m", "scheduler": "karras"}, "DPM++ 2M", "Karras"),
    ({"sampler_name": "DPM++ 2M Karras", "scheduler": "automatic"}, "DPM++ 2M", "Karras"),
    ({"scheduler": "Exponential"}, "Euler", "Exponential"),
    ({"sampler_name": "k_euler_a", "sampler_index": "Heun"}, "Euler a", "Automatic"),
])  # fmt: skip
def test_samplers_are_found_by_every_name(
    client: httpx.Client, body: dict[str, str], sampler: str, schedule: str
) -> None:
    info = json.loads(client.post("/sdapi/v1/txt2img", json={**SMALL, **body}).json()["info"])
    assert (info["sampler_name"], info["extra_generation_params"]["Schedule type"]) == (sampler, schedule)
    assert info["comments"] == ""


@pytest.mark.parametrize(("body", "note"), [
    ({"scheduler": "Turbo"}, "scheduler 'Turbo' is not known here"),
    ({"sampler_name": "DDIM", "scheduler": "karras"}, "DDIM has a schedule of its own"),
    ({"sampler_name": "DPM++ 2M Karras", "scheduler": "beta"}, "names another schedule"),
    ({"restore_faces": True}, "restore_faces was not used"),
    ({"tiling": True}, "tiling was not used"),
    ({"eta": 0.5}, "eta was not used"),
    ({"s_churn": 2}, "s_churn was not used"),
    ({"seed_resize_from_w": 512}, "seed_resize_from_w was not used"),
    ({"styles": ["Film"]}, "styles are not known here, and were not used: 'Film'"),
    ({"script_name": "X/Y/Z plot"}, "the script 'X/Y/Z plot' was not run"),
    ({"override_settings": {"sd_vae": "a.vae.pt", "ENSD": 1}}, "these are not known here: sd_vae, ENSD"),
    ({"prompt": "a <LORA: Film Grain : 0.8 > cat"}, "the lora 'Film Grain' is not known here"),
    ({"negative_prompt": "a <hypernet:old:1>"}, "the hypernet 'old' is not known here"),
    ({"prompt": "a <lora:Film Grain:0.8> cat"}, "the lora 'Film Grain' is not known here"),
])  # fmt: skip
def test_what_is_not_used_is_told_in_the_answer_and_the_job(
    client: httpx.Client, body: dict[str, Any], note: str
) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, **body})
    assert note in json.loads(answer.json()["info"])["comments"]
    job = client.get(f"/api/v1/jobs/{answer.headers['X-Job-Id']}").json()
    assert any(note in each for each in job["notes"])
    assert "<lora" not in job["request"]["prompt"]


@pytest.mark.parametrize(("body", "size", "told"), [
    ({}, (128, 128), {"hires_scale": 2.0, "hires_upscaler": "lanczos"}),
    ({"hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.6}, (96, 96),
     {"hires_upscaler": "latent", "hires_strength": 0.6}),
    ({"hr_resize_x": 160, "hr_resize_y": 0, "hr_second_pass_steps": 3, "hr_upscaler": "nearest"}, (160, 160),
     {"hires_scale": 2.5, "hires_steps": 3, "hires_upscaler": "nearest"}),
    ({"hr_scale": 2, "hr_second_pass_steps": 0, "hr_upscaler": "None"}, (128, 128), {"hires_upscaler": "lanczos"}),
])  # fmt: skip
def test_a_second_pass_is_hires_fix(
    client: httpx.Client, body: dict[str, Any], size: tuple[int, int], told: dict[str, Any]
) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, "enable_hr": True, **body})
    assert answer.status_code == 200, answer.text
    info = json.loads(answer.json()["info"])
    assert (info["width"], info["height"]) == size
    job = client.get(f"/api/v1/jobs/{answer.headers['X-Job-Id']}").json()
    assert told.items() <= job["request"].items()
    assert info["comments"] == ""


@pytest.mark.parametrize(("body", "note"), [
    ({"hr_scale": 1}, "a second pass that leaves the image as large as it is was not made"),
    ({"hr_upscaler": "Latent (bicubic antialiased)"}, "latents are interpolated as with Latent"),
    ({"hr_resize_x": 128, "hr_resize_y": 192}, "have another ratio than the image: nothing was cropped"),
    ({"hr_prompt": "a dog"}, "hr_prompt was not used"),
    ({"hr_sampler_name": "Heun"}, "hr_sampler_name was not used"),
])  # fmt: skip
def test_what_of_a_second_pass_is_not_done_is_told(client: httpx.Client, body: dict[str, Any], note: str) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, "enable_hr": True, **body})
    assert note in json.loads(answer.json()["info"])["comments"]


@pytest.mark.parametrize(("body", "said"), [
    ({"hr_resize_x": 32, "hr_resize_y": 0}, "hr_resize_x is 32; accepted: from 64, the image's own, to 4 times as much"),
    ({"hr_resize_x": 64, "hr_resize_y": 300}, "hr_resize_y is 300; accepted: from 64"),
    ({"hr_scale": 5}, "hr_scale is 5.0; accepted: above 1 and at most 4"),
])  # fmt: skip
def test_a_second_pass_of_a_wrong_size_is_refused_by_what_was_sent(
    client: httpx.Client, body: dict[str, Any], said: str
) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, "enable_hr": True, **body})
    assert said in answer.json()["errors"]


def test_variation_seeds_are_subseeds(client: httpx.Client) -> None:
    body = {**SMALL, "seed": 4, "subseed": 9, "subseed_strength": 0.5, "batch_size": 2}
    info = json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"])
    assert (info["all_seeds"], info["all_subseeds"], info["subseed_strength"]) == ([4, 4], [9, 10], 0.5)
    assert "Variation seed: 10, Variation seed strength: 0.5" in info["infotexts"][1]


def test_the_random_numbers_of_another_machine_may_be_asked_for(client: httpx.Client) -> None:
    body = {**SMALL, "override_settings": {"randn_source": "GPU"}}
    assert (
        json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"])["extra_generation_params"]["RNG"] == "NV"
    )


def test_keys_at_their_usual_values_are_not_told(client: httpx.Client) -> None:
    usual = {
        "restore_faces": False, "tiling": False, "eta": 1.0, "s_churn": 0, "s_noise": 1, "s_tmax": 0, "subseed": -1,
        "seed_resize_from_h": -1, "styles": [], "script_args": ["outpainting mk2"], "url": "x", "auth": "y",
        "override_settings": {"sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1}, "save_images": True, "hr_prompt": "a",
    }  # fmt: skip
    assert json.loads(client.post("/sdapi/v1/txt2img", json={**SMALL, **usual}).json()["info"])["comments"] == ""


@pytest.mark.parametrize(("name", "kind"), [("jpg", "JPEG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_the_format_of_the_images_is_a_setting_of_the_request(client: httpx.Client, name: str, kind: str) -> None:
    settings = {"samples_format": name, "jpeg_quality": 80}
    made = client.post("/sdapi/v1/txt2img", json={**SMALL, "override_settings": settings}).json()
    with of_b64(made["images"][0]) as image:
        assert image.format == kind


def test_an_image_that_the_safety_checker_blurred_is_told(client: httpx.Client) -> None:
    made = client.post("/sdapi/v1/txt2img", json={**SMALL, "prompt": "flagged"}).json()
    assert json.loads(made["info"])["comments"] == "image 0 is blurred: the safety checker found something in it"


def test_images_may_be_left_out(client: httpx.Client) -> None:
    made = client.post("/sdapi/v1/txt2img", json={**SMALL, "send_images": False}).json()
    assert made["images"] == []
    assert json.loads(made["info"])["infotexts"]


@pytest.mark.parametrize(("body", "status", "places", "said"), [
    ({"steps": 0}, 422, ["steps"], "steps is 0; accepted: 1 to 150"),
    ({"cfg_scale": 99}, 422, ["cfg_scale"], "accepted: 0 to 30"),
    ({"seed": -7}, 422, ["seed"], "or -1 for a random one"),
    ({"subseed_strength": 2}, 422, ["subseed_strength"], "0 to 1"),
    ({"width": "wide"}, 422, ["width"], "a whole number"),
    ({"batch_size": 4, "n_iter": 3}, 422, ["n_iter"], "at most 10; it is 12"),
    ({"clip_skip": 2}, 422, ["clip_skip"], "--clip-skip 2"),
    ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, 422, ["override_settings", "CLIP_stop_at_last_layers"], "1 with"),
    ({"override_settings": {"samples_format": "bmp"}}, 422, ["override_settings", "samples_format"], "png, jpg, jpeg, webp"),
    ({"enable_hr": True, "hr_scale": 9}, 422, ["hr_scale"], "at most 4"),
    ({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, 422, ["hr_upscaler"], "latent, lanczos"),
    ({"refiner_checkpoint": "fake"}, 422, ["refiner_checkpoint"], "fake"),
    ({"refiner_checkpoint": "nothing"}, 422, ["refiner_checkpoint"], "fake [0000000000]"),
    ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, 422, ["alwayson_scripts"], "ControlNet"),
])  # fmt: skip
def test_a_wrong_key_is_named_with_what_is_accepted(
    client: httpx.Client, body: dict[str, Any], status: int, places: list[str], said: str
) -> None:
    answer = client.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == status
    (detail,) = answer.json()["detail"]
    assert detail["loc"] == ["body", *places]
    assert said in detail["msg"] == answer.json()["errors"]


def test_an_unknown_sampler_has_automatic1111s_error(client: httpx.Client) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={"sampler_index": "Plan B"})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
    assert answer.json()["detail"].startswith("Sampler not found: sampler_index is 'Plan B'; accepted: Euler, Euler a,")


def test_a_job_that_fails_has_automatic1111s_error(client: httpx.Client) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, "prompt": "fail"})
    assert (answer.status_code, answer.json()["detail"]) == (500, "the UNet's output is not finite")
