"""Images in the format that a client asks for or accepts."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.a1111_images import read_parameters
from tests.support.live_server import enqueue, over

IMAGE = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}


def make(client: httpx.Client, accept: str, **fields: Any) -> httpx.Response:
    body = {"prompt": "a circle", "seed": 7, **fields}
    return client.post("/api/v1/txt2img", json=body, headers={"Accept": accept})


@pytest.fixture(scope="module")
def stored(client: httpx.Client) -> str:
    """The path of an image that is stored."""
    job = over(client, enqueue(client, "a circle", seed=7)["id"])
    return str(job["images"][0]["url"])


@pytest.mark.parametrize("media_type", IMAGE)
def test_an_image_is_made_in_the_accepted_format(client: httpx.Client, media_type: str) -> None:
    answer = make(client, media_type)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type
    assert answer.headers["vary"] == "Accept"
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size) == (IMAGE[media_type], (64, 64))
    words = read_parameters(answer.content)
    assert words is not None
    assert words.startswith("a circle\nSteps: 3, ")
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in answer.content


@pytest.mark.parametrize(("name", "media_type"), [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_a_format_that_is_asked_for_goes_before_the_header(client: httpx.Client, name: str, media_type: str) -> None:
    answer = make(client, "image/*", format=name)
    assert answer.headers["content-type"] == media_type
    # Its job's image goes out so, too, to a client that takes everything; not to one that takes something else.
    stored = f"/api/v1/jobs/{answer.headers['x-job-id']}/images/0"
    assert client.get(stored).content == answer.content
    for other in IMAGE:
        assert client.get(stored, headers={"Accept": other}).headers["content-type"] == other


def test_a_jobs_image_has_the_quality_that_was_asked_for(client: httpx.Client) -> None:
    job = over(client, enqueue(client, "a circle", seed=7, format="jpeg", quality=1)["id"])
    stored = job["images"][0]["url"]
    assert client.get(stored).content == client.get(stored, params={"format": "jpeg", "quality": 1}).content
    assert client.get(stored).content != client.get(stored, params={"quality": 100}).content
    assert client.get(stored, headers={"Accept": "image/png"}).status_code == 200


@pytest.mark.parametrize(
    ("fields", "field", "accepted"),
    [
        ({"format": "gif"}, "format", "png, webp, jpeg"),
        ({"quality": 101, "format": "webp"}, "quality", "1 to 100"),
        ({"quality": 50, "format": "png"}, "quality", "leave it out for png; it belongs to webp, jpeg"),
        ({"quality": 50}, "quality", "leave it out for png; it belongs to webp, jpeg"),
    ],
)
def test_a_wrong_format_of_a_new_image_is_named(
    client: httpx.Client, fields: dict[str, Any], field: str, accepted: str
) -> None:
    answer = make(client, "*/*", **fields)
    assert answer.status_code == 422
    assert (answer.json()["error"]["field"], answer.json()["error"]["accepted"]) == (field, accepted)


def test_a_client_that_accepts_everything_gets_png(client: httpx.Client) -> None:
    assert make(client, "*/*").headers["content-type"] == "image/png"


def test_a_client_that_asks_for_json_gets_the_finished_job(client: httpx.Client) -> None:
    answer = make(client, "application/json")
    assert answer.headers["content-type"] == "application/json"
    assert (answer.json()["status"], len(answer.json()["images"])) == ("succeeded", 1)


def test_a_client_that_asks_for_json_gets_the_job_though_its_image_has_a_format(client: httpx.Client) -> None:
    answer = make(client, "application/json", format="webp", quality=50)
    assert answer.headers["content-type"] == "application/json"
    image = client.get(answer.json()["images"][0]["url"])
    assert image.headers["content-type"] == "image/webp"
    # Scripts in browsers send this, and take everything.
    assert make(client, "application/json, text/plain, */*", format="webp").headers["content-type"] == "image/webp"


def test_a_client_that_accepts_no_image_is_told_what_there_is_before_anything_is_made(client: httpx.Client) -> None:
    before = client.get("/api/v1/jobs").json()["jobs"][:1]
    answer = make(client, "text/html, image/avif")
    assert answer.status_code == 406
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("not_acceptable", "Accept")
    assert error["accepted"] == "image/png, image/webp, image/jpeg, application/json"
    assert client.get("/api/v1/jobs").json()["jobs"][:1] == before


def test_a_job_is_accepted_whatever_the_types(client: httpx.Client) -> None:
    headers = {"Accept": "application/json", "Prefer": "respond-async"}
    assert client.post("/api/v1/txt2img", json={"prompt": "a"}, headers=headers).status_code == 202


@pytest.mark.parametrize("media_type", IMAGE)
def test_a_stored_image_is_encoded_as_it_is_accepted(client: httpx.Client, stored: str, media_type: str) -> None:
    answer = client.get(stored, headers={"Accept": media_type})
    assert answer.headers["content-type"] == media_type
    assert Image.open(io.BytesIO(answer.content)).format == IMAGE[media_type]
    job_id = stored.split("/")[4]
    suffix = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}[media_type]
    assert answer.headers["content-disposition"] == f'inline; filename="{job_id}-0{suffix}"'


def test_a_format_in_the_address_goes_before_the_header(client: httpx.Client, stored: str) -> None:
    answer = client.get(stored, params={"format": "jpeg", "quality": 100}, headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/jpeg"
    best = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
    plain = np.asarray(Image.open(io.BytesIO(client.get(stored).content)))
    assert np.abs(best - plain).max() <= 2


def test_quality_makes_another_file(client: httpx.Client, stored: str) -> None:
    files = [client.get(stored, params={"format": "webp", "quality": q}).content for q in (1, 100)]
    assert len(files[0]) < len(files[1])


@pytest.mark.parametrize(
    ("params", "field", "accepted"),
    [
        ({"format": "gif"}, "format", "png, webp, jpeg"),
        ({"format": "jpeg", "quality": 0}, "quality", "1 to 100"),
        ({"format": "jpeg", "quality": 101}, "quality", "1 to 100"),
        ({"format": "png", "quality": 50}, "quality", "leave it out for png; it belongs to webp, jpeg"),
        ({"quality": 50}, "quality", "leave it out for png; it belongs to webp, jpeg"),
    ],
)
def test_a_wrong_format_or_quality_is_named(
    client: httpx.Client, stored: str, params: dict[str, Any], field: str, accepted: str
) -> None:
    answer = client.get(stored, params=params)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["field"] == field
    assert accepted in error["accepted"]


def test_what_no_image_can_be_is_not_acceptable(client: httpx.Client, stored: str) -> None:
    answer = client.get(stored, headers={"Accept": "application/json"})
    assert answer.status_code == 406
    assert answer.json()["error"]["accepted"] == "image/png, image/webp, image/jpeg"


def test_an_image_that_the_client_has_is_not_sent_again(client: httpx.Client, stored: str) -> None:
    tags = {}
    for media_type in IMAGE:
        first = client.get(stored, headers={"Accept": media_type})
        tags[media_type] = first.headers["etag"]
        again = client.get(
            stored, headers={"Accept": media_type, "If-None-Match": f'"other", W/{first.headers["etag"]}'}
        )
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert len(set(tags.values())) == len(IMAGE)
    answer = client.get(stored, headers={"Accept": "image/jpeg", "If-None-Match": tags["image/png"]})
    assert answer.status_code == 200


def test_head_has_the_type_and_no_body(client: httpx.Client, stored: str) -> None:
    answer = client.head(stored, headers={"Accept": "image/webp"})
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "image/webp", b"")


def test_headers_that_are_lists_may_come_in_several_lines(client: httpx.Client, stored: str) -> None:
    lines = [("Accept", "text/html"), ("Accept", "image/webp;q=0.2"), ("Accept", "image/jpeg;q=0.4")]
    answer = client.get(stored, headers=lines)
    assert answer.headers["content-type"] == "image/jpeg"
    body = {"prompt": "a circle", "seed": 7}
    assert client.post("/api/v1/txt2img", json=body, headers=lines).headers["content-type"] == "image/jpeg"
    tags = [("If-None-Match", '"other"'), ("If-None-Match", answer.headers["etag"])]
    assert client.get(stored, headers=[*lines, *tags]).status_code == 304
