from __future__ import annotations

from pathlib import Path

import pytest

from server.jobs.ledger import Limits
from tests.support import fake_pipeline
from tests.support.live_server import enqueue, live, over, until


def test_an_idle_model_is_unloaded_and_comes_back_with_the_next_job(tmp_path: Path) -> None:
    with live(tmp_path, limits=Limits(idle_unload_seconds=0.2)) as client:
        until(lambda: client.get("/api/v1/capabilities").json()["loaded"] == [])
        assert client.get("/readyz").status_code == 200
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
