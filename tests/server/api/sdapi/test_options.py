from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import fake_pipeline
from tests.support.live_server import live, until

FAKE, OTHER = (f"{name} [{'0' * 10}]" for name in ("fake", "other"))
SMALL = {"steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with two models."""
    folder: Path = tmp_path_factory.mktemp("data")
    fake_pipeline.write_model(folder / "models" / "other")
    with live(folder) as client:
        yield client


def model_of(client: httpx.Client, **body: Any) -> str:
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a", **SMALL, **body})
    assert answer.status_code == 200, answer.text
    return str(json.loads(answer.json()["info"])["sd_model_name"])


@pytest.fixture
def chosen(two: httpx.Client) -> Iterator[httpx.Client]:
    """The server, whose model is chosen back after the test."""
    yield two
    assert two.post("/sdapi/v1/options", json={"sd_model_checkpoint": "fake"}).status_code == 200


def test_the_options_may_be_sent_back_whole(two: httpx.Client) -> None:
    options = two.get("/sdapi/v1/options").json()
    assert options["sd_model_checkpoint"] == FAKE
    assert options["samples_format"] == "png"
    answer = two.post("/sdapi/v1/options", json={**options, "an_option_of_later": [1], "sd_vae": None})
    assert (answer.status_code, answer.json()) == (200, None)


@pytest.mark.parametrize("name", [OTHER, "other", "OTHER", "other.safetensors", f"other.safetensors [{'0' * 10}]"])
def test_the_model_of_requests_that_name_none_is_chosen_by_any_of_its_names(chosen: httpx.Client, name: str) -> None:
    chosen.post("/sdapi/v1/options", json={"sd_model_checkpoint": name})
    assert chosen.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == OTHER
    assert model_of(chosen) == "other"
    # The choice is this dialect's: the server's own calls keep their default model.
    assert chosen.get("/api/v1/capabilities").json()["model"]["name"] == "fake"


def test_an_unknown_model_is_refused_with_those_that_there_are(two: httpx.Client) -> None:
    for path, body in (
        ("options", {"sd_model_checkpoint": "nothing [0123456789]"}),
        ("txt2img", {"override_settings": {"sd_model_checkpoint": "nothing [0123456789]"}}),
    ):
        answer = two.post(f"/sdapi/v1/{path}", json=body)
        assert answer.status_code == 422
        assert FAKE in answer.json()["errors"]
        assert OTHER in answer.json()["errors"]
    assert two.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == FAKE


def test_requests_at_once_never_see_each_others_model(two: httpx.Client) -> None:
    asked = [FAKE, OTHER] * 3
    with ThreadPoolExecutor(6) as pool:
        made = pool.map(lambda title: model_of(two, override_settings={"sd_model_checkpoint": title}), asked)
        assert [f"{name} [{'0' * 10}]" for name in made] == asked
    assert two.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == FAKE


def test_a_queued_request_keeps_the_model_that_was_chosen_when_it_arrived(chosen: httpx.Client) -> None:
    slow = {"prompt": "slow", "width": 64, "height": 64}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(chosen.post, "/sdapi/v1/txt2img", json={**slow, "steps": 8, "force_task_id": "first"})
        until(lambda: chosen.get("/sdapi/v1/progress").json()["state"]["sampling_step"])
        second = pool.submit(chosen.post, "/sdapi/v1/txt2img", json={**slow, "steps": 1, "force_task_id": "second"})
        until(lambda: chosen.get("/internal/pending-tasks").json()["tasks"] == ["second"])
        chosen.post("/sdapi/v1/options", json={"sd_model_checkpoint": OTHER})
        for sent in (first, second):
            assert json.loads(sent.result().json()["info"])["sd_model_name"] == "fake"
    assert model_of(chosen) == "other"


def test_a_model_that_is_gone_is_refused_until_another_is_chosen(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder: Path = tmp_path_factory.mktemp("data")
    model = fake_pipeline.write_model(folder / "models" / "other")
    with live(folder) as client:
        client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "other"})
        shutil.rmtree(model)
        assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "other"
        answer = client.post("/sdapi/v1/txt2img", json=SMALL)
        assert answer.status_code == 422
        assert answer.json()["errors"].startswith("sd_model_checkpoint is 'other'; accepted: fake")
        client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "fake"})
        assert model_of(client) == "fake"


def test_a_model_is_unloaded_and_loaded(two: httpx.Client) -> None:
    assert two.post("/sdapi/v1/unload-checkpoint").json() == {}
    assert two.post("/sdapi/v1/reload-checkpoint").json() == {}
    assert model_of(two) == "fake"
