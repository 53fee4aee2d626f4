"""Requests as programs send them, by their own sources, and what they read of the answers."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.image_files import of_b64


def shown(answer: httpx.Response) -> Image.Image:
    """Return the first image as all of these programs read it: by an address if there is one, or else from base64."""
    assert answer.status_code == 200, answer.text
    (image, *_) = answer.json()["data"]
    assert not image.get("url")
    return of_b64(image["b64_json"])


#: backend/open_webui/routers/images.py: models of GPT's name come without a response_format.
OPEN_WEBUI = {"Authorization": "Bearer none", "X-OpenWebUI-User-Name": "J%C3%BCrgen", "X-OpenWebUI-User-Role": "user"}


@pytest.mark.parametrize("more", [{"response_format": "b64_json"}, {}], ids=["dall-e", "gpt"])
def test_open_webui_makes_an_image(client: httpx.Client, more: dict[str, Any]) -> None:
    # Its administrator's free JSON lies beside its own fields.
    body = {"model": "gpt-image-1", "prompt": "a cat", "n": 1, "size": "96x64", "steps": 4, **more}
    answer = client.post("/v1/images/generations", params={"api-version": "2024-02"}, json=body, headers=OPEN_WEBUI)
    assert shown(answer).size == (96, 64)
    assert answer.json()["notes"] == []


@pytest.mark.parametrize("fields", [["image"], ["image[]"]])
def test_open_webui_edits_an_image(client: httpx.Client, fields: list[str], rotated: Callable[[], bytes]) -> None:
    form = {"model": "gpt-image-1", "prompt": "a cat", "n": "1", "size": "64x64", "background": "auto"}
    files = [(field, ("image.jpg", rotated(), "image/jpeg")) for field in fields]
    assert shown(client.post("/v1/images/edits", data=form, files=files, headers=OPEN_WEBUI)).size == (64, 64)


@pytest.fixture
def rotated() -> Callable[[], bytes]:
    """Makes a photo that lies on its side, as phones store them."""

    def make() -> bytes:
        file, exif = io.BytesIO(), Image.Exif()
        exif[274] = 6
        Image.new("RGB", (60, 40), "red").save(file, "JPEG", exif=exif)
        return file.getvalue()

    return make


def test_librechat_makes_and_edits_images(client: httpx.Client, encoded: Callable[..., bytes]) -> None:
    # OpenAIImageTools.js: the SDK for generations, axios with a form for edits; reads b64_json alone.
    body = {
        "model": "gpt-image-1", "prompt": "a cat", "n": 1, "background": "auto", "output_format": "png", "quality": "auto",
        "size": "auto", "user": "6650", "output_compression": 100,
    }  # fmt: skip
    assert shown(client.post("/v1/images/generations", json=body)).format == "PNG"
    form = {"model": "gpt-image-1", "prompt": "a dog", "n": "1", "quality": "auto", "size": "auto", "user": "6650"}
    assert shown(client.post("/v1/images/edits", data=form, files=[("image[]", ("1.png", encoded()))])).size == (64, 64)


def test_home_assistant_makes_an_image_without_a_size(client: httpx.Client) -> None:
    body = {"model": "fake", "prompt": "a cat", "response_format": "b64_json"}
    assert shown(client.post("/v1/images/generations", json=body)).size == (64, 64)


def test_sillytavern_lists_the_models_and_makes_an_image(client: httpx.Client) -> None:
    models = client.get("/v1/models", params={"type": "image"}, headers={"Authorization": "Bearer none"}).json()
    (name,) = [model["id"] for model in models["data"] if model["default"]]
    body = {"model": name, "prompt": "a cat", "size": "64x64", "n": 1, "response_format": "b64_json", "style": "vivid"}
    assert shown(client.post("/v1/images/generations", json=body)).size == (64, 64)
