"""Models that are damaged, or whose folders go, while a server runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from tests.support import fake_converter
from tests.support.fake_pipeline import DAMAGE
from tests.support.live_server import enqueue, job, live, over, until

MODELS = "/api/v1/models"


def generate(client: httpx.Client, **fields: object) -> httpx.Response:
    return client.post("/api/v1/txt2img", json={"prompt": "a circle", **fields})


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "sources" / "own").mkdir(parents=True)
    return "sources/own"


def test_the_first_model_is_made_again_when_its_folder_is_gone(tmp_path: Path, source: str) -> None:
    with live(tmp_path, checkpoint=source) as client:
        shutil.rmtree(tmp_path / "models" / "own")
        answer = generate(client)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert answer.json()["error"]["message"].startswith(
            "the folder of the model own is gone; it is being converted again"
        )
        until(lambda: client.get("/readyz").status_code == 200)
        assert generate(client).status_code == 200
    assert len(fake_converter.begun(tmp_path)) == 2


def test_a_model_of_the_owners_is_told_to_be_gone_and_works_when_it_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "fake"
    with live(tmp_path) as client:
        folder.rename(tmp_path / "away")
        answer = generate(client)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_gone")
        message = "the folder of the model fake is gone; put it back, or name another model; installed: none"
        assert answer.json()["error"]["message"] == message
        (tmp_path / "away").rename(folder)
        assert generate(client).status_code == 200


@pytest.mark.slow
def test_a_server_whose_worker_found_the_folder_gone_is_ready_when_it_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "fake"
    with live(tmp_path) as client:
        made = enqueue(client, "die late")
        until(lambda: job(client, made["id"])["status"] == "running")
        folder.rename(tmp_path / "away")
        until(lambda: client.get("/readyz").json()["state"] == "failed")
        assert "there is no model 'fake'" in client.get("/readyz").json()["message"]
        shutil.rmtree(folder, ignore_errors=True)
        (tmp_path / "away").rename(folder)
        assert over(client, made["id"])["attempts"] == 2
        until(lambda: client.get("/readyz").status_code == 200)
        assert generate(client).status_code == 200


def test_a_first_model_that_is_found_damaged_is_made_again_and_its_jobs_wait(tmp_path: Path, source: str) -> None:
    with live(tmp_path, checkpoint=source) as client:
        client.post(f"{MODELS}/own/unload")
        until(lambda: not client.get(f"{MODELS}/own").json()["loaded"])
        (tmp_path / "models" / "own" / DAMAGE).touch()
        assert over(client, enqueue(client, "a circle")["id"])["status"] == "succeeded"
    assert len(fake_converter.begun(tmp_path)) == 2


def test_another_model_that_is_found_damaged_is_made_again_and_its_job_is_told(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        url = client.post(MODELS, json={"source": "somebody/other"}).json()["url"]
        until(lambda: client.get(url).json()["status"] == "succeeded")
        (tmp_path / "models" / "other" / DAMAGE).touch()
        answer = generate(client, model="other")
        assert answer.json()["error"] == {
            "code": "model_damaged",
            "message": "other cannot be loaded: it is damaged: unet has other content than was written; "
            "it is being converted again",
        }
        until(lambda: client.get(url).json()["status"] == "succeeded")
        assert generate(client, model="other").status_code == 200


def test_a_damaged_model_whose_source_is_not_known_is_named(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        shutil.copytree(tmp_path / "models" / "fake", tmp_path / "models" / "copied")
        (tmp_path / "models" / "copied" / DAMAGE).touch()
        for answer in (client.post(f"{MODELS}/copied/load"), generate(client, model="copied")):
            assert answer.json()["error"]["code"] == "model_damaged"
            assert answer.json()["error"]["message"].endswith(
                "on the server's machine, convert it again or put the original file back"
            )
        assert client.get("/readyz").status_code == 200
