from __future__ import annotations

import httpx
import pytest
from webuiapi import WebUIApi

from server.pipeline.schedulers import SCHEDULERS


def test_models_have_every_name_that_clients_choose_them_by(api: WebUIApi) -> None:
    (model,) = [each for each in api.get_sd_models() if each["model_name"] == "fake"]
    assert model == {
        "title": f"fake [{'0' * 10}]",
        "model_name": "fake",
        "hash": "0" * 10,
        "sha256": "0" * 64,
        "filename": "fake",
        "config": None,
    }


def test_samplers_and_schedule_types_have_automatic1111s_names(api: WebUIApi) -> None:
    samplers = {each["name"]: each for each in api.get_samplers()}
    # A1111 1.10 has these, under these names and aliases (modules/sd_samplers_kdiffusion.py and sd_samplers_timesteps.py).
    assert {"Euler", "Euler a", "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "Heun", "LMS", "DDIM", "PLMS", "UniPC"} <= set(
        samplers
    )
    assert "k_euler_a" in samplers["Euler a"]["aliases"]
    labels = {each["name"]: each["label"] for each in api.get_schedulers()}
    assert {"automatic": "Automatic", "karras": "Karras", "sgm_uniform": "SGM Uniform"}.items() <= labels.items()


def test_the_first_upscaler_is_none(api: WebUIApi) -> None:
    names = [each["name"] for each in api.get_upscalers()]
    assert names[0] == "None"
    assert {"Lanczos", "Nearest", "shapes-2x"} <= set(names)
    assert api.get_latent_upscale_modes() == [{"name": "Latent"}]


def test_what_there_is_none_of_is_an_empty_list(api: WebUIApi, client: httpx.Client) -> None:
    empty = [
        api.get_sd_vae(),
        api.get_hypernetworks(),
        api.get_face_restorers(),
        api.get_prompt_styles(),
    ]
    empty += [api.get_realesrgan_models(), client.get("/sdapi/v1/sd-modules").json()]
    assert empty == [[]] * 6


def test_scripts_and_memory_have_the_shapes_that_clients_read(api: WebUIApi) -> None:
    assert api.get_scripts() == {"txt2img": ["controlnet"], "img2img": ["controlnet"]}
    ram = api.get_memory()["ram"]
    assert 0 < ram["free"] <= ram["total"] == ram["free"] + ram["used"]


def test_flags_tell_no_settings(api: WebUIApi) -> None:
    assert api.get_cmd_flags() == {"api": True}


@pytest.mark.parametrize("name", ["samplers", "options", "progress"])
def test_a_query_that_other_servers_ignore_is_ignored(client: httpx.Client, name: str) -> None:
    assert client.get(f"/sdapi/v1/{name}?api-version=1&x=").status_code == 200


def test_samplers_of_the_list_are_accepted(client: httpx.Client) -> None:
    for name in (SCHEDULERS["dpm++_2m"].title, "k_euler_a", "DPM++ 2M Karras"):
        body = {"sampler_name": name, "steps": 2, "width": 64, "height": 64}
        assert client.post("/sdapi/v1/txt2img", json=body).status_code == 200, name


@pytest.mark.parametrize("name", ["checkpoints", "loras", "vae", "embeddings"])
def test_lists_are_refreshed_before_they_are_read(client: httpx.Client, name: str) -> None:
    answer = client.post(f"/sdapi/v1/refresh-{name}")
    assert (answer.status_code, answer.json()) == (200, None)
