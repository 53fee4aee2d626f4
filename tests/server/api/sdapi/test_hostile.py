"""Bodies that nobody means well: each gets an error of the client's making, in AUTOMATIC1111's form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

DEEP = "[" * 100_000
HUGE = 10**400


def refused(answer: httpx.Response) -> dict[str, Any]:
    assert 400 <= answer.status_code < 500, answer.text
    body = dict(answer.json())
    assert set(body) == {"error", "detail", "body", "errors"}
    return body


@pytest.mark.parametrize("path", ["txt2img", "img2img", "options", "png-info", "extra-single-image", "interrogate"])
@pytest.mark.parametrize("content", [
    b"", b"null", b"[]", b"7", b'"text"', b"{", b"\xff\xfe", DEEP.encode(), b'{"a": ' + DEEP.encode(), b'{"steps": 1, "steps": 2}',
    b"1" * 5000, b"prompt=a&steps=2", b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--x--',
])  # fmt: skip
def test_what_is_no_object_is_refused(client: httpx.Client, path: str, content: bytes) -> None:
    refused(client.post(f"/sdapi/v1/{path}", content=content))


@pytest.mark.parametrize("key", [
    "steps", "cfg_scale", "seed", "subseed", "subseed_strength", "width", "height", "batch_size", "n_iter", "clip_skip",
    "hr_scale", "hr_resize_x", "hr_second_pass_steps", "denoising_strength",
])  # fmt: skip
@pytest.mark.parametrize(
    "value", [HUGE, -HUGE, float("nan"), float("inf"), "x", [], {}, True], ids=lambda v: str(v)[:6]
)
def test_wrong_numbers_are_refused_by_name(client: httpx.Client, key: str, value: object) -> None:
    body = json.dumps({"enable_hr": True, "hr_upscaler": "Latent", key: value})
    assert key in refused(client.post("/sdapi/v1/txt2img", content=body))["errors"]


@pytest.mark.parametrize("key", [
    "prompt", "negative_prompt", "sampler_name", "sampler_index", "scheduler", "hr_upscaler", "refiner_checkpoint", "script_name",
    "infotext", "force_task_id", "styles", "override_settings", "alwayson_scripts", "send_images", "enable_hr",
])  # fmt: skip
@pytest.mark.parametrize(
    "value", [7, [[]], {"a": {"b": []}}, "\ud800", "x" * 200_000], ids=lambda v: str(type(v).__name__)
)
def test_odd_values_of_texts_are_no_fault_of_the_server(client: httpx.Client, key: str, value: object) -> None:
    answer = client.post(
        "/sdapi/v1/txt2img", content=json.dumps({"steps": 1, "enable_hr": True, "hr_scale": 2, key: value})
    )
    if answer.status_code != 200:
        refused(answer)


@pytest.mark.parametrize("settings", [
    {"sd_model_checkpoint": ["fake"]}, {"sd_model_checkpoint": "[" * 5000}, {"CLIP_stop_at_last_layers": {}},
    {"samples_format": {"a": 1}}, {"samples_format": "../png"}, {"randn_source": []},
    {"samples_format": "jpg", "jpeg_quality": "best"}, {"samples_format": "jpg", "jpeg_quality": 1000},
])  # fmt: skip
def test_wrong_settings_are_refused(client: httpx.Client, settings: dict[str, Any]) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={"override_settings": settings})
    assert "override_settings" in refused(answer)["errors"]


@pytest.mark.parametrize("unit", [
    [], 7, "x", {"image": []}, {"image": {"image": {}}}, {"image": "x" * 200_000}, {"enabled": "yes", "module": []},
    {"model": {}}, {"weight": HUGE}, {"threshold_a": "low"},
], ids=lambda unit: str(unit)[:20])  # fmt: skip
def test_odd_units_are_no_fault_of_the_server(client: httpx.Client, unit: object) -> None:
    body = {"alwayson_scripts": {"ControlNet": {"args": [unit] * 50}}}
    refused(client.post("/sdapi/v1/txt2img", json=body))


def test_notes_repeat_what_was_sent_only_in_part(client: httpx.Client) -> None:
    long = "\ud800" + "x" * 3000
    body = {
        "steps": 1,
        "prompt": f"<lora:{'y' * 400}:1>",
        "script_name": long,
        "styles": [long] * 50,
        "scheduler": long,
    }
    answer = client.post("/sdapi/v1/txt2img", content=json.dumps(body))
    assert answer.status_code == 200, answer.text
    assert len(json.loads(answer.json()["info"])["comments"]) < 4000


@pytest.mark.parametrize(
    "prompt", ["<lora:" * 1600, "<" * 9999, "<lora:a" + ":" * 9000], ids=["tags", "brackets", "colons"]
)
def test_prompts_of_unfinished_tags_take_no_time(client: httpx.Client, prompt: str) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={"steps": 1, "prompt": prompt})
    assert answer.status_code == 200, answer.text
    assert answer.elapsed.total_seconds() < 5


@pytest.mark.parametrize(
    "text", [" " * 60_000 + "x", "x" + " " * 30_000 + "]" * 30_000, "a: " * 20_000], ids=["spaces", "ends", "keys"]
)
@pytest.mark.parametrize("body", [
    lambda text: {"override_settings": {"sd_model_checkpoint": text}},
    lambda text: {"alwayson_scripts": {"ControlNet": {"args": [{"image": "QUJD", "model": text}]}}},
    lambda text: {"infotext": text, "steps": 0},
    lambda text: {"sampler_name": text},
], ids=["model", "unit", "infotext", "sampler"])  # fmt: skip
def test_long_texts_take_no_time(client: httpx.Client, text: str, body: Callable[[str], dict[str, Any]]) -> None:
    """A regular expression that begins with spaces took 5 s for these."""
    answer = client.post("/sdapi/v1/txt2img", json=body(text))
    refused(answer)
    assert answer.elapsed.total_seconds() < 1


def test_unknown_paths_have_automatic1111s_form(client: httpx.Client) -> None:
    assert client.get("/sdapi/v1/nothing").status_code == 404
    refused(client.get("/sdapi/v1/nothing"))
    assert refused(client.get("/sdapi/v1/txt2img"))["error"] == "method_not_allowed"
