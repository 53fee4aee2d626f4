"""Control maps over HTTP."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from demo.scenes import Scene, Thing, draw
from server.pipeline.preprocessors.edges import canny
from tests.support.image_files import encoded, encoded_pixels

SCENE = draw(Scene((Thing("square", "red", "top left"),), "white"), np.random.default_rng(0))


def asked(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/api/v1/preprocess", files={"image": ("scene.png", encoded_pixels(SCENE))}, data=fields)


def pixels_of(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_the_map_is_what_the_preprocessor_makes(client: httpx.Client) -> None:
    assert np.array_equal(pixels_of(asked(client, preprocessor="canny")), canny(SCENE))
    assert np.array_equal(
        pixels_of(asked(client, preprocessor="canny", low_threshold="20", high_threshold="30")), canny(SCENE, 20, 30)
    )


def test_a_client_that_takes_no_png_is_told_so(client: httpx.Client) -> None:
    sent = {"image": base64.b64encode(encoded_pixels(SCENE)).decode(), "preprocessor": "invert"}
    answer = client.post("/api/v1/preprocess", json=sent, headers={"Accept": "image/jpeg, application/json"})
    assert (answer.status_code, answer.json()["error"]["accepted"]) == (406, "image/png")
    assert client.post("/api/v1/preprocess", json=sent, headers={"Accept": "image/*"}).status_code == 200


def test_the_image_may_come_as_base64(client: httpx.Client) -> None:
    sent = {"image": base64.b64encode(encoded_pixels(SCENE)).decode(), "preprocessor": "invert"}
    assert np.array_equal(pixels_of(client.post("/api/v1/preprocess", json=sent)), 255 - SCENE)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"width": "128"}, (128, 128, 3)),
        ({"height": "64"}, (64, 64, 3)),
        ({"width": "96", "height": "64"}, (64, 96, 3)),
    ],
)
def test_the_map_has_the_size_that_is_asked_for(client: httpx.Client, fields: dict[str, str], shape: Any) -> None:
    assert pixels_of(asked(client, preprocessor="soft_edge", **fields)).shape == shape


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"preprocessor": "depth"}, "preprocessor", "weights"),
        ({"preprocessor": "cany"}, "preprocessor", "canny"),
        ({"preprocessor": "blur", "low_threshold": "3"}, "low_threshold", "canny"),
        ({"preprocessor": "canny", "width": "4096"}, "width", "2048"),
        ({}, "preprocessor", "required"),
    ],
)
def test_a_wrong_question_is_refused_by_the_name_of_its_field(
    client: httpx.Client, fields: dict[str, str], field: str, said: str
) -> None:
    answer = asked(client, **fields)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["field"] == field
    assert said in error["message"]


def test_what_is_no_image_is_refused(client: httpx.Client) -> None:
    answer = client.post("/api/v1/preprocess", files={"image": ("a.png", b"no image")}, data={"preprocessor": "canny"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "image")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_that_further_frames_are_not_looked_at_is_told(client: httpx.Client, kind: str) -> None:
    image = Image.fromarray(SCENE)
    for further, notes in (([Image.new("RGB", image.size)], "image is animated: its first frame is used"), ([], None)):
        file = encoded(image, kind, save_all=bool(further), append_images=further)
        answer = client.post("/api/v1/preprocess", files={"image": file}, data={"preprocessor": "invert"})
        assert (answer.status_code, answer.headers.get("x-anemone-notes")) == (200, notes)
