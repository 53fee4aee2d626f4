"""LoRAs and embeddings as AUTOMATIC1111's clients list them, and in the texts of its images."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import save
from webuiapi import WebUIApi

from tests.support.addons import lora_bytes, uploaded

DEEP = '{"a":' * 500 + "1" + "}" * 500
METADATA = {
    "ss_output_name": "Film v2", "ss_tag_frequency": '{"film": {"grain": 3}}', "ss_epoch": "4", "deep": DEEP,
    "bad": '{"a": NaN}',
}  # fmt: skip


FILM = lora_bytes(metadata=METADATA)
#: The data of safetensors come after their header, whose length is the first eight bytes.
SHORT = hashlib.sha256(FILM[8 + int.from_bytes(FILM[:8], "little") :]).hexdigest()[:12]
TOY = save({"emb_params": np.ones((2, 768), np.float32)})
TOY_SHORT = hashlib.sha256(TOY).hexdigest()[:12]


@pytest.fixture
def film(client: httpx.Client) -> Iterator[None]:
    with uploaded(client, "loras", "film", FILM):
        yield


@pytest.fixture
def toys(client: httpx.Client) -> Iterator[None]:
    """An embedding for the model, and one for SDXL."""
    xl = {"clip_l": np.ones((1, 768), np.float32), "clip_g": np.ones((1, 1280), np.float32)}
    with uploaded(client, "embeddings", "toy", TOY), uploaded(client, "embeddings", "big", save(xl)):
        yield


def test_loras_are_listed_with_what_their_trainer_wrote(api: WebUIApi, film: None) -> None:
    (found,) = api.get_loras()
    metadata = {**METADATA, "ss_tag_frequency": {"film": {"grain": 3}}}
    assert found == {"name": "film", "alias": "film", "path": "film.safetensors", "metadata": metadata}


def test_embeddings_are_divided_by_the_model(api: WebUIApi, toys: None) -> None:
    listed = api.get_embeddings()
    nothing = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None}
    assert listed == {
        "loaded": {"toy": {**nothing, "shape": 768, "vectors": 2}},
        "skipped": {"big": {**nothing, "shape": 2048, "vectors": 1}},
    }


def test_an_image_tells_the_hashes_and_is_made_again_to_the_pixel(
    api: WebUIApi, client: httpx.Client, film: None, toys: None
) -> None:
    made = api.txt2img(prompt="a <lora:film:0.5> toy", seed=7)
    text = made.info["infotexts"][0]
    assert text.startswith("a  toy <lora:film:0.5>\n")
    assert f'Lora hashes: "film: {SHORT}", TI hashes: "toy: {TOY_SHORT}"' in text
    assert f'Lora hashes: "film: {SHORT}"' in api.png_info(made.image).info
    again = client.post("/sdapi/v1/txt2img", json={"infotext": text}).json()
    assert json.loads(again["info"])["infotexts"] == [text]
    image = Image.open(io.BytesIO(base64.b64decode(again["images"][0])))
    assert image.tobytes() == made.image.tobytes()


def told(client: httpx.Client, prompt: str, hashes: str) -> dict[str, object]:
    text = f"{prompt}\nSteps: 2, Sampler: Euler a, Seed: 1, {hashes}, Version: v1.10.1"
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return dict(client.post("/api/v1/infotext", files={"image": ("a.png", file.getvalue())}).json())


def test_a_lora_of_another_name_is_found_by_its_hash(client: httpx.Client, film: None) -> None:
    # "Film v2" as A1111 names it by its alias; the short hash of the whole file as Civitai shows it.
    whole = hashlib.sha256(FILM).hexdigest()[:10]
    for digest in (SHORT, whole):
        read = told(client, "a <lora:Film v2:0.5:0.2> cat", f'Lora hashes: "Film v2: {digest}"')
        assert (read["fields"]["prompt"], read["unused"]) == ("a <lora:film:0.5:0.2> cat", [])  # type: ignore[index]


@pytest.mark.parametrize(
    ("prompt", "hashes", "note"),
    [
        ("a <lora:gone:1>", 'Lora hashes: "gone: 0123456789ab"', "the lora 'gone', whose hash is 0123456789ab, is not"),
        ("a <lora:gone:1>", "Model: x", "the lora 'gone' is not installed"),
        ("a <lora:film:1>", 'Lora hashes: "film: 0123456789ab"', "the lora 'film' is another file here"),
        ("a toy", 'TI hashes: "toy: 0123456789"', "the embedding 'toy' is another file here"),
        ("a bear", f'TI hashes: "bear: {TOY_SHORT}"', "the embedding 'bear' is called 'toy' here"),
        ("a none", 'TI hashes: "none: 0123456789"', "the embedding 'none' is not installed"),
    ],
)
def test_what_is_missing_or_another_file_is_told(
    client: httpx.Client, film: None, toys: None, prompt: str, hashes: str, note: str
) -> None:
    read = told(client, prompt, hashes)
    assert note in str(read["unused"])
    assert read["fields"]["prompt"] == prompt  # type: ignore[index]


def test_a_lora_that_is_missing_from_an_infotext_is_told_and_the_image_is_made(client: httpx.Client) -> None:
    text = "a <lora:x:1> cat <lora:gone:0.5>\nSteps: 2, Sampler: Euler, Seed: 1, Prompt syntax: plain, Version: Anemone 0.2.0"
    answer = client.post("/sdapi/v1/txt2img", json={"infotext": text})
    assert answer.status_code == 200, answer.text
    info = json.loads(answer.json()["info"])
    assert (info["prompt"], "the lora 'gone' is not installed" in info["comments"]) == ("a <lora:x:1> cat", True)
