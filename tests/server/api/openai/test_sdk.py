"""OpenAI's own client against a running server: what its users write works unchanged.

The whole file also runs with the client's second version (see test_sdk_2).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from tests.support.addons import lora_bytes, uploaded
from tests.support.image_files import encoded as png_of
from tests.support.image_files import of_b64

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # variations are old to OpenAI


@pytest.fixture(scope="module")
def sdk(client: httpx.Client) -> OpenAI:
    return OpenAI(base_url=f"{client.base_url}/v1", api_key="any")


def decoded(image: Any) -> Image.Image:
    return of_b64(image.b64_json)


def job(client: httpx.Client, response: Any) -> dict[str, Any]:
    return dict(client.get(f"/api/v1/jobs/{response.job}").json())


def alpha(size: tuple[int, int] = (96, 64)) -> bytes:
    """Return a mask in OpenAI's sense: black, and transparent where the image is to change."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (10, 10, 40, 40))
    return png_of(mask)


def test_it_is_the_version_that_is_to_be_tested() -> None:
    assert openai.__version__.split(".")[0] == os.environ.get("TESTED_SDK", "3")


def test_a_prompt_alone_makes_an_image_in_base64(sdk: OpenAI, client: httpx.Client) -> None:
    made = sdk.images.generate(prompt="a circle")
    assert decoded(made.data[0]).size == (64, 64)
    assert (made.output_format, made.size, made.background) == ("png", "64x64", "opaque")
    assert job(client, made)["status"] == "succeeded"


def test_size_number_and_our_fields_reach_the_job(sdk: OpenAI, client: httpx.Client) -> None:
    made = sdk.images.generate(
        model="gpt-image-1",
        prompt="a circle",
        n=2,
        size="96x64",
        extra_body={"num_inference_steps": 5, "cfg_scale": 3.5, "seed": 7, "sampler": "euler_a", "scheduler": "karras"},
    )
    request = job(client, made)["request"]
    assert [image.seed for image in made.data] == [7, 8]
    assert (request["width"], request["height"], request["steps"], request["guidance_scale"]) == (96, 64, 5, 3.5)
    assert (request["scheduler"], request["sigmas"]) == ("euler_a", "karras")


def test_loras_are_named_by_our_field_and_by_tag(
    sdk: OpenAI, client: httpx.Client, encoded: Callable[..., bytes]
) -> None:
    with uploaded(client, "loras", "film", lora_bytes()):
        loras = {"loras": [{"name": "film", "weight": 0.25}]}
        made = sdk.images.generate(prompt="a <lora:film:0.5> cat", extra_body=loras)
        edited = sdk.images.edit(image=encoded(), prompt="a <lora:film:0.5> cat")
    assert [each["weight"] for each in job(client, made)["request"]["loras"]] == [0.25, 0.5]
    assert job(client, edited)["request"]["loras"] == [{"name": "film", "weight": 0.5}]


def test_images_come_as_addresses_if_asked(sdk: OpenAI, client: httpx.Client) -> None:
    made = sdk.images.generate(prompt="a", response_format="url", output_format="webp", output_compression=50)
    answer = client.get(made.data[0].url)
    assert made.data[0].b64_json is None
    assert answer.headers["content-type"] == "image/webp"
    assert made.data[0].url.startswith(str(client.base_url))


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_each_output_format_is_that(sdk: OpenAI, name: Any, kind: str) -> None:
    made = sdk.images.generate(prompt="a", output_format=name, output_compression=100)
    assert decoded(made.data[0]).format == kind
    assert made.output_format == name


def test_an_edit_takes_a_file_and_changes_it(sdk: OpenAI, client: httpx.Client, encoded: Callable[..., bytes]) -> None:
    made = sdk.images.edit(image=encoded(colour="blue"), prompt="a")
    # The fake pipeline's image has the color of the source image.
    assert decoded(made.data[0]).convert("RGB").getpixel((5, 5)) == (0, 0, 255)
    assert job(client, made)["task"] == "img2img"


def test_an_edit_with_a_transparent_mask_is_inpainting(
    sdk: OpenAI, client: httpx.Client, encoded: Callable[..., bytes]
) -> None:
    made = sdk.images.edit(image=("a.png", encoded(size=(96, 64))), mask=("m.png", alpha()), prompt="a")
    assert (job(client, made)["task"], made.size) == ("inpaint", "96x64")


def test_variations_need_no_prompt(sdk: OpenAI, client: httpx.Client, encoded: Callable[..., bytes]) -> None:
    made = sdk.images.create_variation(image=encoded(), n=2)
    assert len(made.data) == 2
    assert job(client, made)["task"] == "variations"


def test_a_stream_shows_previews_and_then_the_image(sdk: OpenAI) -> None:
    events = list(sdk.images.generate(prompt="slow", stream=True, partial_images=2, extra_body={"steps": 12}))
    partial, last = events[:-1], events[-1]
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 2
    assert [event.partial_image_index for event in partial] == [0, 1]
    assert decoded(partial[0]).format == "PNG"
    assert last.type == "image_generation.completed"
    assert decoded(last).size == (64, 64)
    assert last.usage.total_tokens == 0


def test_a_stream_of_an_edit_has_the_events_of_edits(sdk: OpenAI, encoded: Callable[..., bytes]) -> None:
    events = list(sdk.images.edit(image=encoded(), prompt="a", stream=True, n=2))
    assert [event.type for event in events] == ["image_edit.completed"] * 2


def test_an_images_event_has_the_notes_of_its_job(sdk: OpenAI) -> None:
    (event,) = sdk.images.generate(prompt="noted", stream=True, extra_body={"of_no_server": 1})
    assert {note.split()[0] for note in event.notes} == {"fields", "the"}
    assert event.job


def test_an_image_that_the_safety_checker_blurred_says_so(sdk: OpenAI) -> None:
    raw = sdk.images.with_raw_response.generate(prompt="flagged")
    (event,) = sdk.images.generate(prompt="flagged", stream=True)
    assert raw.headers["x-anemone-safety"] == "blurred"
    assert raw.parse().data[0].flagged is event.flagged is True
    plain = sdk.images.with_raw_response.generate(prompt="a")
    assert "x-anemone-safety" not in plain.headers
    assert "flagged" not in plain.parse().data[0].model_dump(exclude_unset=True)


def test_a_failure_in_a_stream_is_raised(sdk: OpenAI) -> None:
    with pytest.raises(openai.APIError, match="not finite"):
        list(sdk.images.generate(prompt="fail", stream=True))


def test_models_are_listed_and_found(sdk: OpenAI) -> None:
    (model,) = [each for each in sdk.models.list().data if each.default]
    assert (model.id, model.object) == ("fake", "model")
    assert model.image_defaults == {
        "steps": 3, "cfg_scale": 4.5, "width": 64, "height": 64, "size": "64x64", "scheduler": "euler",
    }  # fmt: skip
    assert sdk.models.retrieve("fake").id == "fake"
    assert sdk.models.retrieve("dall-e-3").id == "fake"


@pytest.mark.parametrize(
    ("wrong", "param", "said"),
    [
        ({"size": "1x"}, "size", "auto, or WIDTHxHEIGHT"),
        ({"size": "9999x64"}, "size", "64 to 4096"),
        ({"n": 11}, "n", "1 to 10"),
        ({"quality": "best"}, "quality", "1 to 100, or auto"),
        ({"quality": 0}, "quality", "1 to 100, or auto"),
        ({"extra_body": {"cfg_scale": 99}}, "cfg_scale", "0 to 30"),
        ({"response_format": "png"}, "response_format", "b64_json, url"),
        ({"output_compression": 50}, "output_compression", "webp and jpeg"),
        ({"extra_body": {"image": "aGk="}}, "image", "/v1/images/edits"),
        ({"extra_body": {"steps": 3, "step": 4}}, "step", "one of them"),
        ({"quality": 60, "output_compression": 30, "output_format": "webp"}, "quality", "30, or leave it out"),
        ({"extra_body": {"sampler": "euler", "scheduler": "discrete"}}, "scheduler", "karras"),
        ({"extra_body": {"sampler": "euler", "scheduler": "euler_a"}}, "scheduler", "one of them"),
        ({"extra_body": {"scheduler": "discrete"}}, "scheduler", "euler_a"),
        ({"size": "64x64", "extra_body": {"width": 96}}, "size", "agrees with width"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(
    sdk: OpenAI, wrong: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as raised:
        sdk.images.generate(prompt="a", **wrong)
    assert raised.value.param == param
    assert raised.value.request_id
    assert isinstance(raised.value.body, dict)
    assert set(raised.value.body) == {"message", "type", "param", "code"}


def test_an_unknown_model_is_not_found_and_the_installed_ones_are_named(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="fake") as raised:
        sdk.images.generate(prompt="a", model="flux")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


def test_a_failed_job_is_not_sent_again(sdk: OpenAI, client: httpx.Client) -> None:
    before = len(client.get("/api/v1/jobs", params={"status": "failed"}).json()["jobs"])
    with pytest.raises(openai.InternalServerError, match="not finite"):
        sdk.images.generate(prompt="fail here")
    assert len(client.get("/api/v1/jobs", params={"status": "failed"}).json()["jobs"]) == before + 1


def test_a_key_of_the_client_makes_one_job_of_two_requests(sdk: OpenAI) -> None:
    asked = [sdk.images.generate(prompt="a", extra_headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert asked[0].job == asked[1].job


def test_a_cut_request_that_is_sent_again_gets_the_same_job(client: httpx.Client) -> None:
    impatient = OpenAI(base_url=f"{client.base_url}/v1", api_key="any", timeout=0.5, max_retries=8)
    made = impatient.images.generate(prompt="slow and cut", extra_body={"steps": 12})
    jobs = client.get("/api/v1/jobs").json()["jobs"]
    assert [j["id"] for j in jobs if j["request"].get("prompt") == "slow and cut"] == [made.job]


def test_the_asynchronous_client_makes_images_and_streams(client: httpx.Client, encoded: Callable[..., bytes]) -> None:
    async def use() -> tuple[Any, Any, list[str]]:
        async with AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="any") as sdk:
            made, edited = await asyncio.gather(
                sdk.images.generate(prompt="a"), sdk.images.edit(image=encoded(), prompt="b")
            )
            return made, edited, [e.type async for e in await sdk.images.generate(prompt="c", stream=True)]

    made, edited, events = asyncio.run(use())
    assert decoded(made.data[0]).size == decoded(edited.data[0]).size == (64, 64)
    assert events == ["image_generation.completed"]
