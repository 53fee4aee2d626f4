"""LoRAs and embeddings: uploaded, listed, named by requests, deleted."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.addons import write_lora
from tests.support.live_server import enqueue, over

TYPE = {"Content-Type": "application/octet-stream"}
LAYER = "mid_block_attentions_0_transformer_blocks_0_ff_net_2"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A LoRA for Stable Diffusion 1."""
    return write_lora(tmp_path_factory.mktemp("lora") / "film.safetensors", LAYER, 8, 4, width=768).read_bytes()


@pytest.fixture
def film(client: httpx.Client, content: bytes) -> Iterator[str]:
    """The name of an uploaded LoRA."""
    answer = client.post("/api/v1/loras?name=film", content=content, headers=TYPE)
    assert answer.status_code == 201, answer.text
    yield answer.json()["name"]
    assert client.delete("/api/v1/loras/film").status_code == 204


def test_an_uploaded_lora_is_listed_with_the_models_that_it_fits(client: httpx.Client, film: str) -> None:
    listed = client.get("/api/v1/loras").json()
    (lora,) = listed["loras"]
    assert (lora["name"], lora["families"], lora["models"], lora["few_step"]) == ("film", ["sd1"], ["fake"], None)
    assert (lora["kinds"], lora["ranks"], lora["url"]) == (["LoRA"], [1, 1], "/api/v1/loras/film")
    assert listed["damaged"] == {}
    model = client.get("/api/v1/capabilities").json()["model"]
    assert (model["loras"], model["embeddings"]) == (["film"], [])


def test_a_job_names_loras_by_list_and_by_tag(client: httpx.Client, film: str) -> None:
    job = over(client, enqueue(client, "a <lora:FILM:0.5> cat", loras=[{"name": "film", "weight": -1}])["id"])
    assert job["status"] == "succeeded"
    assert job["request"]["prompt"] == "a  cat"
    assert job["request"]["loras"] == [{"name": "film", "weight": -1}, {"name": "film", "weight": 0.5}]
    assert job["preparing"] is None
    image = client.get(job["images"][0]["url"]).content
    assert b"a  cat <lora:film:-1> <lora:film:0.5>" in image


@pytest.mark.parametrize("path", ["/sdapi/v1/txt2img", "/v1/images/generations"])
def test_tags_are_read_in_every_dialect(client: httpx.Client, film: str, path: str) -> None:
    answer = client.post(path, json={"prompt": "a <lora:film:0.5> cat", "steps": 1})
    job = client.get("/api/v1/jobs?limit=1").json()["jobs"][0]
    assert answer.status_code == 200, answer.text
    assert job["request"]["loras"] == [{"name": "film", "weight": 0.5}]


def test_an_unknown_lora_is_refused_with_those_that_there_are(client: httpx.Client, film: str) -> None:
    answer = client.post("/api/v1/txt2img", json={"prompt": "a", "loras": [{"name": "no"}]})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "loras.0.name"
    assert answer.json()["error"]["accepted"] == "film"


@pytest.mark.parametrize(
    ("name", "body", "headers", "status", "words"),
    [
        ("film", None, TYPE, 409, "there is a lora 'film'"),
        ("a/b", None, TYPE, 422, "name is 'a/b'; accepted: 1 to 200 printable characters"),
        ("new", b"", TYPE, 422, "new.safetensors is not usable as a LoRA"),
        ("new", b"\xff" * 1000, TYPE, 422, "new.safetensors is not usable as a LoRA"),
        ("new", None, {"Content-Type": "text/plain"}, 415, "accepted: application/octet-stream"),
    ],
)
def test_a_file_that_cannot_be_used_is_not_kept(
    client: httpx.Client,
    film: str,
    content: bytes,
    name: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    words: str,
) -> None:
    answer = client.post(
        "/api/v1/loras", params={"name": name}, content=content if body is None else body, headers=headers
    )
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text
    assert "/tmp" not in answer.text
    assert [lora["name"] for lora in client.get("/api/v1/loras").json()["loras"]] == ["film"]


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(client: httpx.Client) -> None:
    answer = client.post("/api/v1/embeddings?name=x", content=bytes(16 * 2**20 + 1), headers=TYPE)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_deleting_what_is_not_there_says_what_is(client: httpx.Client) -> None:
    for kind in ("loras", "embeddings"):
        answer = client.delete(f"/api/v1/{kind}/no")
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "there is no 'no'; installed: none yet")
