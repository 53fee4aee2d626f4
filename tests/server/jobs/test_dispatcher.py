from __future__ import annotations

import errno
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from server.jobs.ledger import Limits
from server.jobs.store import JobStore
from server.models.installed import InstalledModels
from tests.support import fake_pipeline
from tests.support.live_server import enqueue, job, live, over, until


def test_an_idle_model_is_unloaded_and_comes_back_with_the_next_job(tmp_path: Path) -> None:
    with live(tmp_path, limits=Limits(idle_unload_seconds=0.2)) as client:
        until(lambda: client.get("/api/v1/capabilities").json()["loaded"] == [])
        assert client.get("/readyz").status_code == 200
        assert over(client, enqueue(client, "a circle")["id"])["status"] == "succeeded"


@pytest.mark.slow
def test_a_data_folder_that_cannot_be_written_is_reported_and_loses_no_job(tmp_path: Path) -> None:
    with live(tmp_path) as client, ThreadPoolExecutor(1) as elsewhere:
        waiting = elsewhere.submit(client.post, "/api/v1/txt2img", json={"prompt": "slow", "steps": 5})
        (first,) = until(lambda: client.get("/api/v1/jobs?status=running").json()["jobs"])
        second = enqueue(client, "a circle")
        shutil.rmtree(tmp_path / "images")
        for answer in (client.post("/api/v1/txt2img", json={"prompt": "waits"}), waiting.result()):
            assert answer.status_code == 503
            assert "cannot be written" in answer.json()["error"]["message"]
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["state"]) == (503, "failed")
        assert client.get("/healthz").status_code == 200
        assert job(client, second["id"])["status"] == "queued"
    with live(tmp_path) as client:
        assert [over(client, made["id"])["status"] for made in (first, second)] == ["succeeded", "succeeded"]


@pytest.mark.slow
def test_a_bug_that_stops_the_queue_is_reported_and_loses_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(store: JobStore, job_id: str) -> NoReturn:
        raise RuntimeError("a bug")

    with live(tmp_path) as client, monkeypatch.context() as meanwhile:
        meanwhile.setattr(JobStore, "start", faulty)
        answer = client.post("/api/v1/txt2img", json={"prompt": "a circle"})
        assert answer.status_code == 503
        assert "RuntimeError" in answer.json()["error"]["message"]
        (kept,) = client.get("/api/v1/jobs").json()["jobs"]
    with live(tmp_path) as client:
        assert over(client, kept["id"])["status"] == "succeeded"


def test_a_models_folder_that_cannot_be_read_fails_the_job_and_not_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(models: InstalledModels, name: str) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    with live(tmp_path) as client:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(InstalledModels, "content_hash", unreadable)
            failed = over(client, enqueue(client, "a circle")["id"])
        assert failed["error"]["code"] == "model_unavailable"
        assert "Input/output error" in failed["error"]["message"]
        assert over(client, enqueue(client, "a circle")["id"])["status"] == "succeeded"


@pytest.mark.slow
def test_jobs_of_several_models_are_all_made_with_their_own(tmp_path: Path) -> None:
    other = tmp_path / "models" / fake_pipeline.OTHER
    other.mkdir(parents=True)
    fake_pipeline.MANIFEST.write(other)
    with live(tmp_path) as client:
        models = ["fake", fake_pipeline.OTHER, "fake", fake_pipeline.OTHER]
        made = [enqueue(client, "slow", steps=2, model=model)["id"] for model in models]
        done = [over(client, job_id) for job_id in made]
        assert [d["status"] for d in done] == ["succeeded"] * 4
        assert [d["model"] for d in done] == models
        listed = client.get(f"/api/v1/jobs?model={fake_pipeline.OTHER}").json()["jobs"]
        assert [j["id"] for j in listed] == [made[3], made[1]]
        # The loaded model's second job ran before the other model's first: two loads instead of four.
        assert [d["id"] for d in sorted(done, key=lambda d: d["started"])] == [made[0], made[2], made[1], made[3]]


def test_a_model_that_cannot_be_loaded_fails_its_job_and_no_other(tmp_path: Path) -> None:
    broken = tmp_path / "models" / fake_pipeline.BROKEN
    broken.mkdir(parents=True)
    fake_pipeline.MANIFEST.write(broken)
    with live(tmp_path) as client:
        bad = over(client, enqueue(client, "a", model=fake_pipeline.BROKEN)["id"])
        assert (bad["status"], bad["error"]["code"]) == ("failed", "model_unavailable")
        assert over(client, enqueue(client, "a")["id"])["status"] == "succeeded"
        answer = client.post("/api/v1/txt2img", json={"prompt": "a", "model": "nothing"})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "model")
        assert "fake" in answer.json()["error"]["accepted"]
