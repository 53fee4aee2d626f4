"""The tools make and show the jobs of the native API, in the protocol's versions of before and since 2026."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, Tool
from PIL import Image

from server.pipeline.request import TASKS, UPSCALE_FIELDS
from tests.support.addons import lora_bytes, uploaded
from tests.support.image_files import b64
from tests.support.live_server import enqueue, job, over, running
from tests.support.mcp_client import NEW, OLD, call, images, text, with_client

MODES = (OLD, NEW)


def png(size: tuple[int, int] = (64, 64), color: str = "red") -> str:
    return b64(Image.new("RGB", size, color))


def noise(side: int) -> str:
    return b64(Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)))


def value(result: CallToolResult) -> dict[str, Any]:
    assert isinstance(result.structured_content, dict)
    return result.structured_content


def tools(server: httpx.Client, mode: str = NEW) -> dict[str, Tool]:
    async def ask(client: Client) -> dict[str, Tool]:
        return {tool.name: tool for tool in (await client.list_tools()).tools}

    return with_client(server, ask, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_finds_the_tools(client: httpx.Client, mode: str) -> None:
    async def name(connected: Client) -> str:
        return connected.server_info.name

    assert with_client(client, name, OLD) == "anemone"
    found = tools(client, mode)
    assert list(found) == [
        "generate_image", "edit_image", "upscale_image", "list_models", "job_status", "cancel_job",
    ]  # fmt: skip
    assert all(tool.description for tool in found.values())


@pytest.mark.parametrize(("tool", "fields", "required"), [
    ("generate_image", TASKS["txt2img"].fields, {"prompt"}),
    ("edit_image", TASKS["outpaint"].fields, {"prompt", "image"}),
    ("upscale_image", UPSCALE_FIELDS, {"image"}),
])  # fmt: skip
def test_a_tool_takes_every_field_of_its_requests(client: httpx.Client, tool: str, fields: Any, required: Any) -> None:
    schema = tools(client)[tool].input_schema
    assert set(schema["properties"]) == {field.name for field in fields} | {"priority", "wait"}
    assert set(schema["required"]) == required
    assert all(field["description"] for field in schema["properties"].values())
    assert "$ref" not in str(schema)


def test_schemas_name_the_limits_of_fields(client: httpx.Client) -> None:
    fields = tools(client)["edit_image"].input_schema["properties"]
    assert {name: fields["steps"][name] for name in ("type", "minimum", "maximum")} == {
        "type": "integer", "minimum": 1, "maximum": 150,
    }  # fmt: skip
    control = fields["controls"]["items"]
    assert control["required"] == ["image"]
    for image in (control["properties"]["image"], fields["image"]):
        assert "base64" in image["description"]
        assert image["description"].endswith("or the address of an image that a tool made here")


@pytest.mark.parametrize("mode", MODES)
def test_generating_makes_the_native_calls_job(client: httpx.Client, mode: str) -> None:
    fields = {"prompt": "a noted star", "seed": 7, "width": 96, "height": 64}
    result = call(client, "generate_image", mode, **fields)
    assert not result.is_error
    ((kind, image),) = images(result)
    native = client.post("/api/v1/txt2img", json=fields)
    made = job(client, value(result)["id"])
    assert kind == "image/png"
    assert np.array_equal(image, Image.open(io.BytesIO(native.content)))
    assert made["request"] == job(client, native.headers["x-job-id"])["request"]
    assert made["notes"] == job(client, native.headers["x-job-id"])["notes"] != []
    assert value(result)["notes"] == made["notes"]
    for word in (made["id"], "seed 7", "96x64", *made["notes"], f"{client.base_url}/api/v1/jobs/{made['id']}/images/0"):
        assert word in text(result)


def test_an_image_with_a_second_pass_has_the_size_of_that_pass(client: httpx.Client) -> None:
    result = call(client, "generate_image", prompt="a star", width=64, height=64, hires_scale=2)
    assert "1 image of 128x128" in text(result)


def test_several_images_are_all_shown(client: httpx.Client) -> None:
    result = call(client, "generate_image", prompt="stars", n=2, seed=3, format="webp")
    assert [kind for kind, _ in images(result)] == ["image/webp", "image/webp"]
    assert "seeds 3, 4" in text(result)


@pytest.mark.parametrize(("fields", "task"), [
    ({}, "img2img"), ({"mask": png(color="white")}, "inpaint"), ({"extend_left": 32}, "outpaint"),
])  # fmt: skip
def test_editing_chooses_the_task_by_its_arguments(client: httpx.Client, fields: dict[str, Any], task: str) -> None:
    result = call(client, "edit_image", prompt="a star", image=png(color="blue"), **fields)
    ((_, image),) = images(result)
    assert value(result)["task"] == task
    assert image.getpixel((image.width - 1, 0)) == (0, 0, 255)


def test_an_image_of_an_earlier_job_is_named_by_its_address(client: httpx.Client) -> None:
    first = call(client, "generate_image", prompt="a star", seed=5)
    ((_, image),) = images(first)
    path = value(first)["images"][0]["url"]
    for address in (path, f"{client.base_url}{path}"):
        ((_, edited),) = images(call(client, "edit_image", prompt="a star", image=address, controls=[]))
        assert edited.getpixel((0, 0)) == image.getpixel((0, 0))


@pytest.mark.parametrize(("address", "message"), [
    ("/api/v1/jobs/none/images/0", "the job 'none' does not exist"),
    ("http://elsewhere.example/api/v1/jobs/none/images/0", "this is an address, which the server does not fetch"),
])  # fmt: skip
def test_an_address_where_no_image_of_ours_is(client: httpx.Client, address: str, message: str) -> None:
    result = call(client, "edit_image", prompt="a", image=address)
    assert result.is_error
    assert message in text(result)
    assert message in text(call(client, "generate_image", prompt="a", controls=[{"image": address}]))


def test_an_image_that_the_job_does_not_have(client: httpx.Client) -> None:
    path = value(call(client, "generate_image", prompt="a star"))["url"]
    result = call(client, "upscale_image", image=f"{path}/images/7")
    assert (result.is_error, "has no image 7" in text(result)) == (True, True)


def test_enlarging(client: httpx.Client) -> None:
    result = call(client, "upscale_image", image=png((10, 8)), scale=3)
    ((_, image),) = images(result)
    assert (image.size, value(result)["task"]) == ((30, 24), "upscale")


def test_an_image_that_a_result_cannot_hold_is_shown_smaller_or_named_and_never_dropped_unsaid(
    client: httpx.Client,
) -> None:
    shown = call(client, "upscale_image", image=noise(600), scale=1, upscaler="nearest")
    assert [kind for kind, _ in images(shown)] == ["image/jpeg"]
    assert "it is shown as jpeg, the original is at its address" in text(shown)
    named = call(client, "upscale_image", image=noise(600), scale=2, upscaler="lanczos")
    assert images(named) == []
    assert "too large to be shown here" in text(named)
    for result in (shown, named):
        url = value(result)["images"][0]["url"]
        assert url in text(result)
        assert client.get(url).headers["content-type"] == "image/png"


def test_models_are_listed_with_what_they_can_do(client: httpx.Client) -> None:
    result = call(client, "list_models")
    capabilities = client.get("/api/v1/capabilities").json()
    assert value(result)["default"] == "fake"
    assert value(result)["models"] == capabilities["models"]
    assert "fake (the default): best at 64x64, 96x64; 3 steps; can do txt2img" in text(result)


def test_loras_are_listed_and_named_by_argument_and_tag(client: httpx.Client) -> None:
    with uploaded(client, "loras", "film", lora_bytes()):
        assert "\n  LoRAs: film\n" in text(call(client, "list_models"))
        result = call(
            client, "generate_image", prompt="a <lora:film:0.5> cat", loras=[{"name": "film", "weight": 0.25}]
        )
        unknown = call(client, "generate_image", prompt="a", loras=[{"name": "grain"}])
    request = job(client, value(result)["id"])["request"]
    assert request["loras"] == [{"name": "film", "weight": 0.25}, {"name": "film", "weight": 0.5}]
    assert text(unknown) == "loras.0.name is 'grain'; accepted: film"


def test_a_job_is_followed_later(client: httpx.Client) -> None:
    begun = call(client, "generate_image", prompt="a slow star", steps=8, wait=False)
    job_id = value(begun)["id"]
    assert (begun.is_error, images(begun), value(begun)["status"] in ("queued", "running")) == (False, [], True)
    running(client, job_id)
    assert f"Job {job_id} is running, step " in text(call(client, "job_status", job_id=job_id))
    ended = call(client, "job_status", job_id=job_id, wait=True)
    assert (value(ended)["status"], len(images(ended))) == ("succeeded", 1)
    assert images(call(client, "job_status", job_id=job_id))[0][1] == images(ended)[0][1]


def test_a_job_is_cancelled(client: httpx.Client) -> None:
    job_id = enqueue(client, "slow", steps=100)["id"]
    assert call(client, "cancel_job", job_id=job_id).is_error is False
    assert over(client, job_id)["status"] == "cancelled"
    again = call(client, "cancel_job", job_id=job_id)
    assert text(again) == f"Job {job_id} had ended before: cancelled."
    assert text(call(client, "job_status", job_id=job_id)) == f"Job {job_id} was cancelled."


@pytest.mark.parametrize("mode", MODES)
def test_progress_is_told_step_by_step(client: httpx.Client, mode: str) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def ask(connected: Client) -> None:
        async def note(done: float, total: float | None, sentence: str | None) -> None:
            told.append((done, total, sentence))

        await connected.call_tool("generate_image", {"prompt": "slow", "steps": 2, "n": 2}, progress_callback=note)

    with_client(client, ask, mode)
    steps = [(done, total) for done, total, _ in told if done]
    # The last one may be overtaken by the result.
    assert steps[:3] == [(1, 4), (2, 4), (3, 4)]
    assert "image 2 of 2, step 1 of 2" in [str(sentence).partition(", about")[0] for _, _, sentence in told]


@pytest.mark.parametrize(("tool", "path", "arguments"), [
    ("generate_image", "txt2img", {"prompt": "a", "steps": 0}),
    ("generate_image", "txt2img", {"prompt": "a", "model": "none"}),
    ("generate_image", "txt2img", {}),
    ("edit_image", "img2img", {"prompt": "a", "image": "c3Rhcg=="}),
    ("edit_image", "img2img", {"prompt": "a", "image": "http://x/y.png"}),
    ("upscale_image", "upscale", {"image": png(), "upscaler": "none"}),
    ("generate_image", "txt2img", {"prompt": "fail"}),
    ("generate_image", "txt2img", {"prompt": "unsafe"}),
])  # fmt: skip
def test_errors_are_the_native_apis(client: httpx.Client, tool: str, path: str, arguments: dict[str, Any]) -> None:
    result = call(client, tool, **arguments)
    native = client.post(f"/api/v1/{path}", json=arguments).json()["error"]
    assert (result.is_error, text(result), value(result)["error"]) == (True, native["message"], native)


def test_an_unknown_argument_is_refused_by_name_with_those_that_there_are(client: httpx.Client) -> None:
    assert text(call(client, "job_status", job="x")) == "job is not a field of this request; accepted: job_id, wait"
    refusal = text(call(client, "generate_image", prompt="a", mask=png()))
    assert refusal.startswith("mask is not a field of this request; accepted: by edit_image; here: priority, wait, ")
    assert text(call(client, "edit_image", prompt="a", image=png(), mask_blur=9)).startswith(
        "mask_blur is 9.0; accepted: leave it out without a mask"
    )


@pytest.mark.parametrize("tool", ["job_status", "cancel_job"])
def test_a_job_that_does_not_exist(client: httpx.Client, tool: str) -> None:
    result = call(client, tool, job_id="none")
    assert (result.is_error, text(result)) == (True, "the job 'none' does not exist")


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_that_does_not_exist(client: httpx.Client, mode: str) -> None:
    with pytest.raises(MCPError, match="'paint' is not a tool; accepted: generate_image, edit_image"):
        call(client, "paint", mode)


def test_an_argument_that_is_null_is_as_if_left_out(client: httpx.Client) -> None:
    made = call(client, "generate_image", prompt="a", steps=1, wait=None, seed=None, controls=None)
    assert value(made)["status"] == "succeeded"
    assert value(call(client, "job_status", job_id=value(made)["id"], wait=None)) == value(made)


def test_a_tool_without_arguments_says_that_it_takes_none(client: httpx.Client) -> None:
    assert text(call(client, "list_models", random="")) == "random is not a field of this request; accepted: none"
