"""ControlNet's units, of a server whose model has a ControlNet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image
from webuiapi import ControlNetUnit, WebUIApi

from converter.manifest import Package
from tests.support import fake_pipeline
from tests.support.image_files import b64, of_b64
from tests.support.live_server import live
from tests.support.processes import copied

RED = Image.new("RGB", (64, 64), "red")
NET = "control_v11p_sd15_canny"
MANIFEST = replace(
    fake_pipeline.MANIFEST,
    networks=fake_pipeline.MANIFEST.networks
    | {
        "unet": (Package("unet.mlpackage", 64, 64, 2, control=True),),
        f"controlnet/{NET}": (Package("controlnet.mlpackage", 64, 64, 2),),
    },
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    data = tmp_path_factory.mktemp("data")
    fake_pipeline.write_model(data / "models" / "fake", MANIFEST)
    with live(data, launch=copied(fake_pipeline.start, data, name="fake-worker")) as opened:
        yield opened


def sent(client: httpx.Client, *units: Any, path: str = "txt2img", **body: Any) -> httpx.Response:
    scripts = {"ControlNet": {"args": list(units)}}
    return client.post(
        f"/sdapi/v1/{path}", json={"steps": 2, "width": 64, "height": 64, "alwayson_scripts": scripts, **body}
    )


def controls_of(client: httpx.Client, *units: Any, **body: Any) -> tuple[list[dict[str, Any]], str]:
    answer = sent(client, *units, **body)
    assert answer.status_code == 200, answer.text
    job = client.get(f"/api/v1/jobs/{answer.headers['X-Job-Id']}").json()
    return job["request"]["controls"], json.loads(answer.json()["info"])["comments"]


def test_the_clients_unit_is_a_control(client: httpx.Client) -> None:
    api = WebUIApi(host=client.base_url.host, port=client.base_url.port, steps=2)
    unit = ControlNetUnit(
        RED,
        module="canny",
        model=f"{NET} [d14c016b]",
        weight=0.8,
        guidance_start=0.1,
        guidance_end=0.9,
        threshold_b=128,
    )
    # The client adds its units to its own default, for all later calls.
    made = api.txt2img(prompt="a cat", steps=10, width=64, height=64, controlnet_units=[unit], alwayson_scripts={})
    text = made.info["infotexts"][0]
    assert f'ControlNet 0: "Module: canny, Model: {NET}, Weight: 0.8' in text
    assert "Threshold A: 64, Threshold B: 128, Guidance Start: 0.1, Guidance End: 0.9" in text
    assert made.parameters["alwayson_scripts"] == {"ControlNet": {"args": []}}
    assert made.info["comments"] == ""
    assert api.controlnet_model_list() == [NET]
    assert {"none", "canny", "lineart_standard"} <= set(api.controlnet_module_list())
    assert api.controlnet_version() == 3


@pytest.mark.parametrize("image", [
    {"image": b64(RED)},
    {"image": f"data:image/png;base64,{b64(RED)}"},
    {"image": {"image": b64(RED), "mask": None}},
    {"input_image": b64(RED)},
    {"image": [{"image": b64(RED), "mask": ""}]},
    {"image": b64(RED.resize((64, 32))), "resize_mode": "Scale to Fit (Inner Fit)"},
])  # fmt: skip
def test_an_image_comes_in_every_form(client: httpx.Client, image: dict[str, Any]) -> None:
    (control,), comments = controls_of(client, {**image, "model": NET})
    assert (control["net"], control["preprocessor"], control["weight"]) == (NET, "none", 1.0)
    assert comments == ""


def test_units_that_are_switched_off_are_left_out_and_the_others_keep_their_places(client: httpx.Client) -> None:
    off, on = {"enabled": False, "image": "no image at all"}, {"image": b64(RED), "model": NET}
    controls, _ = controls_of(client, off, on)
    assert len(controls) == 1
    answer = sent(client, off, {**on, "weight": 7})
    assert answer.json()["detail"][0]["loc"] == ["body", "alwayson_scripts", "ControlNet", "args", 1, "weight"]
    answer = sent(client, off, on, {**on, "image": "QUJD"})
    assert answer.json()["detail"][0]["loc"] == ["body", "alwayson_scripts", "ControlNet", "args", 2, "image"]


def test_a_unit_without_an_image_takes_that_of_img2img(client: httpx.Client) -> None:
    controls, _ = controls_of(client, {"module": "canny", "model": NET}, path="img2img", init_images=[b64(RED)])
    assert controls[0]["preprocessor"] == "canny"


@pytest.mark.parametrize(("unit", "note"), [
    ({}, f"model names none: {NET} was used"),
    ({"model": NET, "control_mode": "My prompt is more important"}, "control_mode was not used"),
    ({"model": NET, "mask": "QUJD"}, "mask was not used"),
    ({"model": NET, "image": {"image": b64(RED), "mask": b64(RED)}}, "image.mask was not used"),
    ({"model": NET, "effective_region_mask": b64(RED)}, "effective_region_mask was not used"),
    ({"model": NET, "resize_mode": 3, "image": b64(RED.resize((64, 32)))}, "'Just Resize' is not done here"),
    ({"model": NET, "resize_mode": "Just Resize", "image": b64(RED.resize((64, 32)))}, "scaled to cover 64x64 and cropped"),
    ({"model": NET, "resize_mode": 2, "image": b64(RED.resize((64, 32)))}, "'Resize and Fill' is not done here"),
])  # fmt: skip
def test_what_of_a_unit_is_not_used_is_told(client: httpx.Client, unit: dict[str, Any], note: str) -> None:
    _, comments = controls_of(client, {"image": b64(RED), **unit})
    assert f"alwayson_scripts.ControlNet.args.0.{note}" in comments or note in comments


@pytest.mark.parametrize(("unit", "place", "said"), [
    ({"module": "openpose_full"}, ["module"], "softedge_gradient"),
    ({"module": "depth"}, ["module"], "depth needs a trained network"),
    ({"module": 7}, ["module"], "canny"),
    ({"model": "control_v11f1p_sd15_depth"}, ["model"], NET),
    ({"image": None}, ["image"], "an image, as base64"),
    ({"image": "%%"}, ["image"], "base64 of a PNG"),
    ({"weight": "heavy"}, ["weight"], "a number"),
    ({"guidance_start": 0.9, "guidance_end": 0.1}, ["guidance_start"], "less than end"),
    ({"module": "canny", "threshold_a": 200, "threshold_b": 100}, ["threshold_a"], "at most the high threshold"),
    ("canny", [], "a unit: an object"),
])  # fmt: skip
def test_a_wrong_unit_is_named_with_what_there_is(client: httpx.Client, unit: Any, place: list[str], said: str) -> None:
    whole = {"image": b64(RED), "model": NET, **unit} if isinstance(unit, dict) else unit
    answer = sent(client, whole)
    assert answer.status_code == 422, answer.text
    (detail,) = answer.json()["detail"]
    assert detail["loc"] == ["body", "alwayson_scripts", "ControlNet", "args", 0, *place]
    assert said in detail["msg"]


def test_the_client_gets_the_map_of_a_preprocessor(client: httpx.Client) -> None:
    api = WebUIApi(host=client.base_url.host, port=client.base_url.port)
    made = api.controlnet_detect([RED, RED.resize((32, 48))], module="invert")
    assert [image.size for image in made.images] == [(64, 64), (32, 48)]
    assert made.image.getpixel((0, 0)) == (0, 255, 255)
    assert made.info == "Success"


def test_the_extensions_own_name_of_the_images_is_read(client: httpx.Client) -> None:
    """The package sends another one, which the extension ignores."""
    body = {"controlnet_module": "invert", "controlnet_input_images": [b64(RED)], "controlnet_processor_res": 512}
    (made,) = client.post("/controlnet/detect", json=body).raise_for_status().json()["images"]
    assert of_b64(made).getpixel((0, 0)) == (0, 255, 255)


def test_the_photoshop_plugin_finds_what_it_fills_its_menus_with(client: httpx.Client) -> None:
    """It reads sliders by their places: the resolution, then both thresholds (typescripts/controlnet/store.ts)."""
    listed = client.get("/controlnet/module_list", params={"alias_names": "true"}).json()
    assert set(listed["module_detail"]) == set(listed["module_list"])
    assert [each["value"] for each in listed["module_detail"]["canny"]["sliders"]] == [512, 100, 200]
    assert listed["module_detail"]["none"] == {"model_free": False, "sliders": []}
    assert client.get("/controlnet/settings").json()["control_net_unit_count"] == 3
    types = client.get("/controlnet/control_types").json()["control_types"]
    assert types["All"]["model_list"] == ["None", NET]
    assert types["All"]["default_option"] in types["All"]["module_list"] == listed["module_list"]


def test_units_at_the_top_level_are_told_unless_they_are_in_their_place_too(client: httpx.Client) -> None:
    unit = {"image": b64(RED), "model": NET}
    _, comments = controls_of(client, unit, controlnet_units=[unit])
    assert comments == ""
    body = {"steps": 1, "width": 64, "height": 64, "controlnet_units": [unit]}
    info = json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"])
    assert info["comments"] == "controlnet_units was not used: units are read of alwayson_scripts.ControlNet.args"


@pytest.mark.parametrize(("body", "place"), [
    ({}, ["controlnet_input_images"]),
    ({"controlnet_input_images": ["QUJD"]}, ["controlnet_input_images", 0]),
    ({"controlnet_images": [b64(RED), "QUJD"]}, ["controlnet_images", 1]),
    ({"controlnet_images": [b64(RED)], "controlnet_module": "depth"}, ["controlnet_module"]),
    ({"controlnet_images": [b64(RED)], "controlnet_module": "canny", "controlnet_threshold_a": 0.5}, ["controlnet_threshold_a"]),
    ({"controlnet_images": [b64(RED)], "controlnet_module": "canny", "controlnet_threshold_b": 999}, ["controlnet_threshold_b"]),
    ({"controlnet_images": [b64(RED)], "controlnet_module": "canny", "controlnet_threshold_a": 200,
      "controlnet_threshold_b": 100}, ["controlnet_threshold_a"]),
])  # fmt: skip
def test_what_is_wrong_with_a_map_is_named(client: httpx.Client, body: dict[str, Any], place: list[Any]) -> None:
    answer = client.post("/controlnet/detect", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", *place]


def test_more_units_than_there_may_be_are_refused(client: httpx.Client) -> None:
    answer = sent(client, *[{"image": b64(RED)}] * 4)
    assert "up to 3 controls" in answer.json()["errors"]


@pytest.mark.parametrize(("scripts", "status"), [
    ({"ADetailer": {"args": [False]}}, 200),
    ({"Refiner": {"args": [False, "", 0.8]}}, 200),
    ({"controlnet": {"args": []}}, 200),
    ({"ControlNet": None}, 200),
    ({"Self Attention Guidance": {"args": [True, 0.75]}}, 422),
    ({"ControlNet": []}, 422),
    ({"ControlNet": {"args": {"0": {}}}}, 422),
])  # fmt: skip
def test_other_scripts_are_refused_unless_they_are_off(client: httpx.Client, scripts: Any, status: int) -> None:
    body = {"steps": 2, "width": 64, "height": 64, "alwayson_scripts": scripts}
    assert client.post("/sdapi/v1/txt2img", json=body).status_code == status


def test_scripts_of_automatic1111_itself_are_told_if_they_are_on(client: httpx.Client) -> None:
    body = {"steps": 2, "width": 64, "height": 64, "alwayson_scripts": {"Soft inpainting": {"args": [True, 1]}}}
    info = json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"])
    assert info["comments"] == "the script 'Soft inpainting' was not used: this server has none"
