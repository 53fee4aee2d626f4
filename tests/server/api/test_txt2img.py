from __future__ import annotations

import io
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.live_server import over


def make(client: httpx.Client, **fields: Any) -> httpx.Response:
    answer = client.post("/api/v1/txt2img", json={"prompt": "a circle", **fields})
    assert answer.status_code == 200, answer.text
    return answer


def test_answers_with_a_png_and_says_which_job_and_seed(client: httpx.Client) -> None:
    answer = make(client, seed=7)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-anemone-seed"] == "7"
    job = over(client, answer.headers["x-job-id"])
    assert job["status"] == "succeeded"
    assert client.get(job["images"][0]["url"]).content == answer.content


def test_the_png_carries_what_makes_it_again(client: httpx.Client) -> None:
    answer = make(client, seed=7, negative_prompt="blur", steps=2, guidance_scale=3.5, width=96, height=64)
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (96, 64)
    words = str(image.info["parameters"])
    assert words.startswith("a circle\nNegative prompt: blur\nSteps: 2, ")
    for part in ("CFG scale: 3.5", "Seed: 7", "Size: 96x64", "Model: fake"):
        assert part in words


def test_what_is_left_out_is_the_models_default(client: httpx.Client) -> None:
    job = over(client, make(client).headers["x-job-id"])
    expected = {"width": 64, "height": 64, "steps": 3, "guidance_scale": 4.5, "n": 1, "negative_prompt": ""}
    assert expected.items() <= job["request"].items()


def test_one_seed_gives_one_image(client: httpx.Client) -> None:
    assert make(client, seed=5).content == make(client, seed=5).content
    assert make(client, seed=5).content != make(client, seed=6).content


@pytest.mark.parametrize("seed", [None, -1])
def test_a_seed_that_is_not_given_is_drawn_and_told(client: httpx.Client, seed: int | None) -> None:
    first, second = make(client, seed=seed), make(client, seed=seed)
    assert first.headers["x-anemone-seed"] != second.headers["x-anemone-seed"]
    again = make(client, seed=int(first.headers["x-anemone-seed"]))
    assert again.content == first.content


def test_several_images_are_told_as_json_with_a_seed_each(client: httpx.Client) -> None:
    answer = make(client, seed=2**32 - 1, n=3)
    job = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert (job["id"], job["status"]) == (answer.headers["x-job-id"], "succeeded")
    assert [image["seed"] for image in job["images"]] == [2**32 - 1, 0, 1]
    assert [image["index"] for image in job["images"]] == [0, 1, 2]
    for image in job["images"]:
        assert (
            Image.open(io.BytesIO(client.get(image["url"]).content)).info["parameters"].count(f"Seed: {image['seed']}")
        )


@pytest.mark.parametrize(
    "names",
    [
        {"scheduler": "DPM++ 2M Karras"},
        {"scheduler": "dpm++_2m_karras", "sigmas": "automatic"},
        {"scheduler": "DPMSolverMultistepScheduler", "sigmas": "Karras"},
    ],
)
def test_schedulers_are_known_by_their_names(client: httpx.Client, names: dict[str, str]) -> None:
    answer = make(client, **names)
    sampled = over(client, answer.headers["x-job-id"])["request"]
    assert (sampled["scheduler"], sampled["sigmas"]) == ("dpm++_2m", "karras")
    words = str(Image.open(io.BytesIO(answer.content)).info["parameters"])
    assert "Sampler: DPM++ 2M, Schedule type: Karras, " in words


@pytest.mark.parametrize("prompt", ["", "круг 円 ⭕", "a\nb\tc", "x" * 10_000, 'quotes " and, commas: \\'])
def test_any_text_is_a_prompt(client: httpx.Client, prompt: str) -> None:
    answer = make(client, prompt=prompt)
    words = str(Image.open(io.BytesIO(answer.content)).info["parameters"])
    assert words.startswith(f"{prompt}\nSteps: ")


def test_a_failed_job_answers_with_its_reason(client: httpx.Client) -> None:
    answer = client.post("/api/v1/txt2img", json={"prompt": "fail"})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the UNet's output is not finite"


def test_an_error_in_our_code_fails_the_job_and_not_the_server(client: httpx.Client) -> None:
    answer = client.post("/api/v1/txt2img", json={"prompt": "bug"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    make(client)


def test_what_was_done_to_the_inputs_is_told(client: httpx.Client) -> None:
    answer = make(client, prompt="noted")
    assert answer.headers["x-anemone-notes"] == "the mask was scaled from 8x8 to 64x64 \\u2013 bilinearly"
    notes = over(client, answer.headers["x-job-id"])["notes"]
    assert notes == ["the mask was scaled from 8x8 to 64x64 \u2013 bilinearly"]
    plain = make(client)
    assert "x-anemone-notes" not in plain.headers
    assert over(client, plain.headers["x-job-id"])["notes"] == []
