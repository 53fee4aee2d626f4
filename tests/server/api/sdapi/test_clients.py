"""Requests as programs send them, and what each reads of the answers. The programs themselves are not run here.

Read from the sources of Open WebUI (routers/images.py), SillyTavern (endpoints/stable-diffusion.js), LibreChat
(StableDiffusion.js), Dify (stable_diffusion.py) and the Auto-Photoshop plugin (sdapi.ts, python_replacement.js).
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.image_files import b64

#: What SillyTavern and Open WebUI send where their user has entered no password.
EMPTY = {"Authorization": f"Basic {base64.b64encode(b':').decode()}"}
#: What SillyTavern sends beside its own address.
SILLYTAVERN = {
    "url": "http://127.0.0.1:7860", "auth": ":", "prompt": "a cat", "negative_prompt": "", "sampler_name": "DPM++ 2M Karras",
    "scheduler": "Automatic", "steps": 2, "cfg_scale": 7, "width": 64, "height": 64, "restore_faces": False, "enable_hr": False,
    "hr_upscaler": "Latent", "hr_scale": 1, "hr_additional_modules": [], "denoising_strength": 0.7, "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"}, "override_settings_restore_afterwards": True,
    "clip_skip": 1, "save_images": True, "send_images": True, "do_not_save_grid": False, "do_not_save_samples": False,
}  # fmt: skip
#: What Dify sends for an image of an image.
DIFY = {
    "prompt": "a cat", "negative_prompt": "", "sampler_index": "DPM++ SDE Karras", "resize_mode": 0, "denoising_strength": 0.9,
    "mask_blur": 0, "inpainting_fill": 0, "inpaint_full_res": False, "inpaint_full_res_padding": 0, "mask": None,
    "seed_resize_from_h": -1, "seed_resize_from_w": -1, "restore_faces": False, "tiling": False, "script_args":
    ["outpainting mk2"], "steps": 2, "cfg_scale": 7, "width": 64, "height": 64, "styles": [], "seed": 9,
}  # fmt: skip


def image_of(text: str) -> Image.Image:
    """The image of an answer, which must be plain base64."""
    assert "," not in text
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


@pytest.mark.parametrize("headers", [{"Authorization": ""}, {"Authorization": "Basic"}, EMPTY])
def test_open_webui(client: httpx.Client, headers: dict[str, str]) -> None:
    options = client.get("/sdapi/v1/options", headers=headers).json()
    models = client.get("/sdapi/v1/sd-models", headers=headers).json()
    assert options["sd_model_checkpoint"] in [model["title"] for model in models]
    assert all(model["model_name"] for model in models)
    # It sends the options back as they came, with another model.
    answer = client.post(
        "/sdapi/v1/options", json={**options, "sd_model_checkpoint": models[0]["title"]}, headers=headers
    )
    assert answer.status_code == 200
    body = {
        "prompt": "a cat",
        "batch_size": 1,
        "width": 512,
        "height": 512,
        "cfg_scale": 5,
        "scheduler": "Karras",
        "steps": 2,
    }
    res = client.post("/sdapi/v1/txt2img", json=body, headers=headers).json()
    assert image_of(res["images"][0]).size == (512, 512)
    assert res["info"]


def test_sillytavern(client: httpx.Client) -> None:
    get = {name: client.get(f"/sdapi/v1/{name}", headers=EMPTY).json() for name in (
        "options", "sd-models", "samplers", "schedulers", "upscalers", "latent-upscale-modes", "sd-vae", "sd-modules",
    )}  # fmt: skip
    assert "forge_preset" not in get["options"]
    for name in ("samplers", "schedulers", "upscalers", "latent-upscale-modes"):
        assert all(isinstance(each["name"], str) for each in get[name])
    assert get["upscalers"][0]["name"] == "None"
    assert isinstance(get["sd-vae"], list)
    client.post("/sdapi/v1/options", json={"sd_model_checkpoint": get["sd-models"][0]["title"]}, headers=EMPTY)
    progress = client.get("/sdapi/v1/progress", headers=EMPTY).json()
    assert progress["progress"] == 0
    assert progress["state"]["job_count"] == 0
    answer = client.post("/sdapi/v1/txt2img", json=SILLYTAVERN, headers=EMPTY)
    assert image_of(answer.json()["images"][0]).size == (64, 64)
    info = json.loads(answer.json()["info"])
    assert info["comments"] == ""
    assert (info["sampler_name"], info["extra_generation_params"]["Schedule type"]) == ("DPM++ 2M", "Karras")
    # The answer repeats no key that is the client's own.
    assert not {"url", "auth"} & set(answer.json()["parameters"])


def test_librechat(client: httpx.Client) -> None:
    body = {"prompt": "a cat", "negative_prompt": "a dog", "cfg_scale": 4.5, "steps": 2, "width": 1024, "height": 1024}
    data = client.post("/sdapi/v1/txt2img", json=body).json()
    info = json.loads(data["info"])
    assert image_of(data["images"][0]).size == (info["width"], info["height"]) == (1024, 1024)
    assert info["infotexts"][0].startswith("a cat\nNegative prompt: a dog\n")
    assert isinstance(info["seed"], int)


def test_dify(client: httpx.Client) -> None:
    names = [model["model_name"] for model in client.get("/sdapi/v1/sd-models").json()]
    # httpx sends what data= has without a type.
    assert client.post("/sdapi/v1/options", content=json.dumps({"sd_model_checkpoint": names[0]})).status_code == 200
    body = {**DIFY, "override_settings": {"sd_model_checkpoint": names[0]}}
    body["init_images"] = [b64(Image.new("RGB", (64, 64), "red"))]
    answer = client.post("/sdapi/v1/img2img", content=json.dumps(body))
    assert answer.status_code == 200, answer.text
    assert image_of(answer.json()["images"][0]).size == (64, 64)
    job = client.get(f"/api/v1/jobs/{answer.headers['X-Job-Id']}").json()
    assert (job["request"]["scheduler"], job["request"]["sigmas"]) == ("dpm++_sde", "karras")
    assert job["notes"] == []


def test_the_photoshop_plugin(client: httpx.Client) -> None:
    lists = {name: client.get(f"/sdapi/v1/{name}").json() for name in (
        "samplers", "upscalers", "sd-models", "options", "loras", "embeddings", "scripts",
    )}  # fmt: skip
    assert isinstance(lists["embeddings"]["loaded"], dict)
    assert client.get("/sdapi/v1/progress?skip_current_image=false").json()["current_image"] is None
    body = {
        "prompt": "a cat", "negative_prompt": "", "steps": 2, "cfg_scale": 7, "seed": "-1", "sampler_name": "Euler a",
        "width": 64, "height": 64, "denoising_strength": 0.7, "batch_size": 1, "n_iter": 1, "mode": "txt2img",
        "inpainting_fill": 0, "mask_expansion": 10, "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent",
        "alwayson_scripts": {"controlnet": {"args": [{"enabled": False, "input_image": "", "mask": "", "module": "", "model": ""}]}},
    }  # fmt: skip
    made: dict[str, Any] = client.post("/sdapi/v1/txt2img", json=body).json()
    image = f"data:image/png;base64,{made['images'][0]}"
    told = client.post("/sdapi/v1/png-info", json={"image": image}).json()
    assert told["info"] == json.loads(made["info"])["infotexts"][0]
    extras = {
        "resize_mode": 0,
        "show_extras_results": True,
        "upscaling_resize": 2,
        "upscaler_1": "Lanczos",
        "image": image,
    }
    assert image_of(client.post("/sdapi/v1/extra-single-image", json=extras).json()["image"]).size == (128, 128)
    assert client.post("/sdapi/v1/interrupt").json() is None
    assert client.get("/controlnet/module_list?alias_names=true").json()["module_list"]
