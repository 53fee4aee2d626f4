"""Requests as programs send them that do not use OpenAI's client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from PIL import Image

from server.api.openai.answer import Answering
from server.api.openai.fields import GENERATION, Asked
from server.api.service import Service
from server.api.upload import Upload
from server.events import EventLog
from server.jobs.ledger import Accepted
from server.security.gate import Access
from server.security.key import ApiKey, Authenticator
from tests.support.image_files import encoded as png_of
from tests.support.image_files import of_b64
from tests.support.live_server import live
from tests.support.outages import locked

KEY = "a-key-for-tests-0123456789"


def generate(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/images/generations", json={"prompt": "a", **fields})


def notes(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return list(answer.json()["notes"])


def data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def job_of(client: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return dict(client.get(f"/api/v1/jobs/{answer.headers['x-job-id']}").json())


def test_the_answer_names_its_job_and_its_request(client: httpx.Client) -> None:
    answer = generate(client)
    assert answer.json()["job"] == answer.headers["x-job-id"]
    assert answer.headers["x-request-id"]


def test_fields_of_other_servers_are_named_as_without_effect(client: httpx.Client) -> None:
    said = notes(generate(client, true_cfg_scale=4, generator_device="cpu", enable_teacache=True, quality="hd"))
    assert (
        said[0]
        == "fields without effect, since they are not known here: true_cfg_scale, generator_device, enable_teacache"
    )
    assert said[1].startswith("quality has no effect")


@pytest.mark.parametrize("name", ["", " ", "end ", "\t", "a\r\nX-Other: 1", "\u2028", "\ud800"])
def test_an_unknown_field_of_any_name_is_a_note_that_a_header_can_have(client: httpx.Client, name: str) -> None:
    body = json.dumps({"prompt": "a", name: 1})
    answer = client.post("/v1/images/generations", content=body, headers={"content-type": "application/json"})
    shown = repr(name) if name != name.strip() or not name else repr(name)[1:-1]
    assert notes(answer) == [f"fields without effect, since they are not known here: {shown}"]
    assert answer.headers["x-anemone-notes"].endswith(shown)
    assert "x-other" not in answer.headers


@pytest.mark.parametrize(
    "usual",
    [
        {"quality": "auto", "background": "auto", "moderation": "auto", "user": "me", "size": "auto"},
        {"quality": "standard", "output_compression": 100, "n": None, "seed": None, "model": None},
        {"size": "64x64", "width": 64, "height": "64"},
        {"size": "", "quality": "", "negative_prompt": "", "steps": 3, "step": "3"},
        {"style": "", "user": "", "quality": 60, "output_compression": 60, "output_format": "jpeg"},
    ],
)
def test_what_clients_usually_send_has_no_notes(client: httpx.Client, usual: dict[str, Any]) -> None:
    assert notes(generate(client, **usual)) == []


def test_a_transparent_background_is_opaque_and_the_answer_says_so(client: httpx.Client) -> None:
    answer = generate(client, background="transparent")
    assert answer.json()["background"] == "opaque"
    assert notes(answer) == ["background has no effect: images are opaque"]


@pytest.mark.parametrize(
    ("sent", "scheduler", "sigmas"),
    [
        ({"scheduler": "karras"}, "euler", "karras"),
        ({"scheduler": "euler_a"}, "euler_a", "automatic"),
        ({"sampler": "dpm++_2m", "scheduler": "karras"}, "dpm++_2m", "karras"),
        ({"sampler_name": "DPM++ 2M Karras"}, "dpm++_2m", "karras"),
        ({"sampler": "euler_a", "scheduler": "automatic"}, "euler_a", "automatic"),
    ],
)
def test_samplers_and_schedulers_are_understood_in_either_sense(
    client: httpx.Client, sent: dict[str, Any], scheduler: str, sigmas: str
) -> None:
    request = job_of(client, generate(client, **sent))["request"]
    assert (request["scheduler"], request["sigmas"]) == (scheduler, sigmas)


@pytest.mark.parametrize(
    "name", ["dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-2", "chatgpt-image-latest", "", "FAKE"]
)
def test_openais_names_mean_the_default_model(client: httpx.Client, name: str) -> None:
    assert job_of(client, generate(client, model=name))["model"] == "fake"


def test_a_slash_at_the_end_lists_the_models_too(client: httpx.Client) -> None:
    assert client.get("/v1/models/").json() == client.get("/v1/models").json()


def test_queries_that_gateways_append_are_ignored(client: httpx.Client) -> None:
    assert client.get("/v1/models", params={"type": "image"}).json()["object"] == "list"
    answer = client.post("/v1/images/generations", params={"api-version": "2024"}, json={"prompt": "a"})
    assert answer.status_code == 200


def test_an_edit_in_json_has_its_images_as_addresses_of_data(
    client: httpx.Client, encoded: Callable[..., bytes]
) -> None:
    image = {"image_url": data_uri(encoded(colour="lime"))}
    answer = client.post("/v1/images/edits", json={"prompt": "a", "images": [image]})
    made = of_b64(answer.json()["data"][0]["b64_json"])
    assert made.convert("RGB").getpixel((3, 3)) == (0, 255, 0)


@pytest.mark.parametrize("field", ["image", "image[]", "image[0]", "images", "images[]"])
def test_an_edit_in_a_form_has_its_image_under_the_names_that_clients_use(
    client: httpx.Client, encoded: Callable[..., bytes], field: str
) -> None:
    form = {"prompt": "a", "n": "2", "size": "auto", "model": "gpt-image-1", "quality": "", "background": "auto"}
    answer = client.post("/v1/images/edits", data=form, files=[(field, ("a.png", encoded(), "image/png"))])
    assert len(answer.json()["data"]) == 2


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([{"file_id": "file-1"}], "images.0"),
        ([{"image_url": "https://example.com/a.png"}], "does not fetch"),
        ([], "image is missing"),
        ([7], "images.0"),
    ],
)
def test_an_edit_without_a_usable_image_says_what_is_accepted(
    client: httpx.Client, images: list[Any], said: str
) -> None:
    answer = client.post("/v1/images/edits", json={"prompt": "a", "images": images})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_a_mask_that_is_transparent_nowhere_is_refused(client: httpx.Client, encoded: Callable[..., bytes]) -> None:
    files = {"image": ("a.png", encoded()), "mask": ("m.png", encoded())}
    answer = client.post("/v1/images/edits", data={"prompt": "a"}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "mask")
    assert "transparent" in answer.json()["error"]["message"]


def test_of_an_animated_mask_the_first_frame_is_used_and_the_answer_says_so(
    client: httpx.Client, encoded: Callable[..., bytes]
) -> None:
    everything, nothing = (Image.new("RGBA", (96, 64), (0, 0, 0, alpha)) for alpha in (0, 255))
    file = io.BytesIO()
    everything.save(file, "WEBP", save_all=True, append_images=[nothing], lossless=True)
    files = {"image": ("a.png", encoded(size=(96, 64))), "mask": ("m.webp", file.getvalue())}
    said = notes(client.post("/v1/images/edits", data={"prompt": "a"}, files=files))
    # What the mask means is said in no color: OpenAI's has none.
    assert said == [
        "mask is animated: its first frame is used",
        "the mask covers everything: the whole image is painted again",
    ]


def test_of_dall_e_2_an_images_own_transparency_is_the_mask(client: httpx.Client) -> None:
    image = Image.new("RGBA", (96, 64), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 20, 20))
    tasks = {}
    for model in ("dall-e-2", "gpt-image-1"):
        answer = client.post(
            "/v1/images/edits", data={"prompt": "a", "model": model}, files={"image": ("a.png", png_of(image))}
        )
        tasks[model] = job_of(client, answer)["task"]
    assert tasks == {"dall-e-2": "inpaint", "gpt-image-1": "img2img"}


def test_more_images_than_the_model_takes_are_refused_by_number(
    client: httpx.Client, encoded: Callable[..., bytes]
) -> None:
    files = [("image[]", ("a.png", encoded()))] * 3
    answer = client.post("/v1/images/edits", data={"prompt": "a"}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    assert "3 images" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "application/json"}, b"{", 400),
        ({"content-type": "application/json"}, b"[]", 400),
        ({"content-type": "application/json"}, b'{"prompt": "a", "prompt": "b"}', 400),
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x", 400),
        ({"content-type": "application/json"}, json.dumps({"prompt": "a", "model": ["x"]}).encode(), 400),
        ({"content-type": "application/json"}, json.dumps({"prompt": "a", "size": [1, 2]}).encode(), 400),
        ({"content-type": "application/json"}, json.dumps({"prompt": "a", "stream": "perhaps"}).encode(), 400),
        ({"content-type": "application/json"}, b"{}", 400),
    ],
)
def test_bad_bodies_get_errors_in_openais_form(
    client: httpx.Client, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = client.post("/v1/images/generations", headers=headers, content=body)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-should-retry"] == "false"


def test_paths_that_do_not_exist_and_wrong_methods_have_openais_form_too(client: httpx.Client) -> None:
    assert client.get("/v1/chat/completions").json()["error"]["code"] == "not_found"
    assert client.get("/v1/images/generations").json()["error"]["code"] == "method_not_allowed"


def test_a_wrong_key_is_openais_error_and_any_key_passes_without_one(client: httpx.Client, tmp_path: Path) -> None:
    assert client.get("/v1/models", headers={"Authorization": "Bearer sk-any"}).status_code == 200
    with live(tmp_path, access=Access(authenticator=Authenticator(ApiKey(KEY)))) as keyed:
        wrong = keyed.get("/v1/models", headers={"Authorization": "Bearer sk-wrong"})
        right = keyed.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    assert right.status_code == 200


def test_a_fault_of_the_database_is_an_error_in_a_stream_that_has_begun(tmp_path: Path) -> None:
    class Locked:
        def job(self, job_id: str) -> None:
            with locked(tmp_path / "jobs"), closing(sqlite3.connect(tmp_path / "jobs", timeout=0)) as database:
                database.execute("SELECT * FROM sqlite_master")

    async def streamed() -> bytes:
        answering = Answering(cast(Service, Locked()), GENERATION, Asked(Upload({})), Accepted("x", False), None, "")
        return b"".join([part async for part in answering.events(EventLog().subscribe("x"))])

    said = asyncio.run(streamed()).decode().splitlines()
    assert (said[0], said[-2]) == ("event: error", "data: [DONE]")
    assert json.loads(said[1].removeprefix("data: "))["error"]["code"] == "database_locked"


def test_a_cancelled_job_is_not_sent_again(client: httpx.Client) -> None:
    with client.stream(
        "POST", "/v1/images/generations", json={"prompt": "slow", "steps": 100, "stream": True}
    ) as answer:
        client.delete(f"/api/v1/jobs/{answer.headers['x-job-id']}")
        lines = [line for line in answer.iter_lines() if line.startswith("data: {")]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "cancelled"


def test_an_answer_whose_second_image_is_gone_is_an_error_and_not_a_cut_answer(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        asked = {"json": {"prompt": "a", "n": 2}, "headers": {"Idempotency-Key": "twice"}}
        job_id = client.post("/v1/images/generations", **asked).headers["x-job-id"]
        file = max((tmp_path / "images").glob("*.png"), key=lambda path: path.stat().st_mtime_ns)
        file.unlink()
        answer = client.post("/v1/images/generations", **asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_image")
        assert f"image 1 of job {job_id} is missing" in answer.json()["error"]["message"]
